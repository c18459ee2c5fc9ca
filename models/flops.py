"""How many times less arithmetic a fused prefill needs: the bound on its speed-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.modules import Modules


def flop_limit(modules: Modules, n: int, passes: Sequence[tuple[Tensor, int]]) -> float:
    """FLOPs of the full prefill of ``n`` tokens over those of the rows that a fused one ran.

    Counted: the linear layers of every row, ``4·H·D`` per query and visible key, and one row of the
    LM head.

    Parameters
    ----------
    passes : groups of rows, their global positions ``[R]``, and through how many layers they went.
    """
    head = 2 * modules.model.lm_head.weight.numel()
    full = _flops(modules, torch.arange(n)) * len(modules.layers) + head
    return full / (sum(_flops(modules, rows) * layers for rows, layers in passes) + head)


def _flops(modules: Modules, positions: Tensor) -> float:
    """FLOPs of these rows through one layer."""
    linear = 2 * sum(p.numel() for p in modules.layers[0].parameters() if p.dim() == 2)
    keys = int(positions.sum()) + len(positions)
    return linear * len(positions) + 4 * modules.n_heads * modules.head_dim * keys
