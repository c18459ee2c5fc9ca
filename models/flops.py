"""How many times less arithmetic a fused prefill needs: the bound on its speed-up."""

from __future__ import annotations

from torch import Tensor

from models.modules import Modules
from models.spans import Prompt


def flop_limit(
    modules: Modules, prompt: Prompt, recomputed: Tensor | None, dense_layers: int
) -> float:
    """FLOPs of the full prefill over those of the fused one, for the rows actually computed.

    Counted: the linear layers of every row that runs, ``4·H·D`` per query and visible key, and one
    row of the LM head. Below ``dense_layers`` all document and question rows run.

    Parameters
    ----------
    recomputed : ``[R]`` positions computed from the check layer on; None means all.
    """
    n = len(prompt)
    all_rows = range(n)
    full = _pass(modules, all_rows, n_layers=len(modules.layers)) + _head(modules)
    if recomputed is None:
        return 1.0
    rows = recomputed.tolist()
    dense = min(dense_layers, len(modules.layers))
    fused = _pass(modules, all_rows[prompt.documents[0] :], dense)
    fused += _pass(modules, rows, len(modules.layers) - dense) + _head(modules)
    return full / fused


def _pass(modules: Modules, positions: range | list[int], n_layers: int) -> float:
    """FLOPs of these rows through ``n_layers`` layers."""
    layer = modules.layers[0]
    linear = 2 * sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    keys = sum(positions) + len(positions)
    return n_layers * (linear * len(positions) + 4 * modules.n_heads * modules.head_dim * keys)


def _head(modules: Modules) -> float:
    return 2 * modules.model.lm_head.weight.numel()
