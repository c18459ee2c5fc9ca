"""InfoFlow KV: the norm of the question's attention (Teng et al., 2026, arXiv:2603.05353)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.question import group_attention
from models.selectors.base import BaseSelector, option, top_k


@dataclass
class Selector(BaseSelector):
    """Top-k of the norm of the attention that a token gets from the question.

    Over layers l, heads h and question rows i: score(j) = Σ_l ‖a[l, :, :, j]‖₂, so that a row or
    head which looks hard counts for more than many that look a little. Keys lie at their global
    positions, as they will when the answer is decoded: what the paper calls an inference-consistent
    RoPE geometry, which every selector here is given.

    After InfoFlow KV: we had its abstract, which says "attention norm" and not of what nor in which
    layers. ``norm=values`` takes ‖a·‖v_j‖‖₂, the weight by the length of what it carries (Kobayashi
    et al., 2020, arXiv:2004.10102); ``layer`` looks at one layer instead of all. The paper also
    puts chunks into another order; here their order is the prompt's.

    Cost: the question's rows through the layers, and their attention weights.
    """

    norm: str = option("weights", "infoflow: norm of attention weights, or of values times them")
    layer: int | None = option(None, "infoflow: the one layer to look at (all)")

    def __post_init__(self) -> None:
        if self.norm not in ("weights", "values"):
            raise UserError(f"NORM is weights or values, not {self.norm!r}")
        if self.layer is not None and self.layer < 0:
            raise UserError(f"LAYER={self.layer} must be at least 0")

    @property
    def deepest(self) -> int:
        return self.layer or 0

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        total = torch.zeros(len(probe.candidates), device=probe.device)
        documents = slice(*probe.prompt.documents)
        for layer in range(probe.n_layers) if self.layer is None else (self.layer,):
            asked = probe.question(layer)
            weights = (
                group[:, :, documents]
                for group in group_attention(asked.queries, asked.keys, probe.scale)
            )
            lengths = None
            if self.norm == "values":
                lengths = probe.cached(1, layer).float().norm(dim=-1)
            total += attention_norm(weights, lengths)
        return probe.candidates[top_k(total, probe.budget)]


def attention_norm(weights: Iterable[Tensor], lengths: Tensor | None = None) -> Tensor:
    """L2 norm over heads and rows of the attention that each position gets, ``[n]``.

    Parameters
    ----------
    weights : ``[H / H_kv, q, n]`` of every K/V head. lengths : ``[H_kv, n]`` to multiply them by.
    """
    energy = torch.stack([group.square().sum((0, 1)) for group in weights])
    return (energy if lengths is None else energy * lengths.square()).sum(0).sqrt()
