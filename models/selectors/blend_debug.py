"""CacheBlend's deviation and A³'s attention, fused into one score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.finite import require_finite
from models.probe import Probe
from models.selectors.base import BaseSelector, check_layer, option, require_layer, top_k
from models.selectors.blend import check_gap_source, deviation
from models.selectors.debug import attention_scores


@dataclass
class Selector(BaseSelector):
    """Top-k of a fusion of :mod:`~models.selectors.blend` and :mod:`~models.selectors.debug`.

    With both scores brought to [0, 1] by ``normalize`` (``minmax`` or ``rank``), ``b`` the
    deviation and ``a`` the attention: ``mul`` is b^α·a^(1−α), at α = 0.5 the order of the plain
    product; ``sum`` is α·b + (1−α)·a; ``rank`` is ``sum`` over ranks whatever ``normalize`` says.

    Cost: the layers below the check layer on all rows, and two projections of them.
    """

    check_layer: int = check_layer()
    blend_gap_source: str = option("v", "blend: compare v (values) or k (post-RoPE keys) (v)")
    fusion: str = option("mul", "blend_debug: mul, sum or rank (mul)")
    alpha: float = option(0.5, "blend_debug: weight of the deviation (0.5)")
    normalize: str = option("minmax", "blend_debug: minmax or rank (minmax)")
    per_head: bool = option(False, "debug: 1 takes a softmax of each head by itself")
    edge_corrected: bool = option(False, "debug: 1 pools over the neighbours that exist only")

    context = "prefix"  # as A³'s own

    def __post_init__(self) -> None:
        require_layer(self.check_layer)
        check_gap_source(self.blend_gap_source)
        if self.fusion not in ("mul", "sum", "rank"):
            raise UserError(f"FUSION is mul, sum or rank, not {self.fusion!r}")
        if self.normalize not in ("minmax", "rank"):
            raise UserError(f"NORMALIZE is minmax or rank, not {self.normalize!r}")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"ALPHA={self.alpha} is outside [0, 1]")

    @property
    def deepest(self) -> int:
        return self.check_layer

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        if not len(probe.candidates):
            return probe.candidates
        check = probe.check(self.check_layer)
        scale = ranks if "rank" in (self.fusion, self.normalize) else min_max
        gap = deviation(check, self.blend_gap_source)
        attention = attention_scores(
            probe, check.queries, check.keys, self.per_head, self.edge_corrected
        )
        require_finite(gap, "the selector's deviations")  # or scaling would make them numbers
        require_finite(attention, "the selector's attention scores")
        gap, attention = scale(gap), scale(attention)
        if self.fusion == "mul":
            fused = gap**self.alpha * attention ** (1 - self.alpha)
        else:
            fused = self.alpha * gap + (1 - self.alpha) * attention
        return probe.candidates[top_k(fused, probe.budget)]


def min_max(scores: Tensor) -> Tensor:
    """``[n]`` → [0, 1]; all zero where all are equal."""
    low, high = scores.aminmax()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


def ranks(scores: Tensor) -> Tensor:
    """``[n]`` → the share of the other scores that are smaller, so that ties are equal."""
    below = torch.searchsorted(scores.sort().values, scores)
    return below.float() / max(len(scores) - 1, 1)
