"""CacheBlend's high-KV-deviation tokens (Yao et al., 2024, arXiv:2405.16444)."""

from dataclasses import dataclass

from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.selectors import BaseSelector, top_k


@dataclass
class Selector(BaseSelector):
    """Top-k of Σ over heads and dimensions of (X_new − X_old)² at the check layer.

    X is the values (``v``) or the post-RoPE keys (``k``). Cost: the layers below the check layer on
    all rows, and one projection of them.
    """

    check_layer: int = 1
    blend_gap_source: str = "v"

    def __post_init__(self) -> None:
        if self.blend_gap_source not in ("k", "v"):
            raise UserError(f"--blend-gap-source is k or v, not {self.blend_gap_source!r}")

    @property
    def dense_layers(self) -> int:
        return self.check_layer

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        check = probe.check(self.check_layer)
        n = len(probe.candidates)
        if self.blend_gap_source == "v":
            fresh, cached = check.values, check.cached(1)
        else:
            fresh, cached = check.keys, check.cached(0)
        gap = fresh[:, :n].float() - cached[:, :n].float()
        return probe.candidates[top_k(gap.square().sum((0, 2)), probe.budget)]
