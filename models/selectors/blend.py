"""CacheBlend's high-KV-deviation tokens (Yao et al., 2024, arXiv:2405.16444)."""

from dataclasses import dataclass

from torch import Tensor

from models.errors import UserError
from models.probe import CheckLayer, Probe
from models.selectors.base import BaseSelector, check_layer, option, require_layer, top_k


@dataclass
class Selector(BaseSelector):
    """Top-k of Σ over heads and dimensions of (X_new − X_old)² at the check layer.

    X is the values (``v``) or the post-RoPE keys (``k``). With ``filter_layers`` = n > 1 the choice
    narrows gradually: at the check layer 2k positions are kept, at each of the next layers fewer of
    those that are left by their deviation there, at the n-th of them k (the share falls linearly).

    Cost: the layers below the check layer on all rows, those between on the rows kept, and one
    projection at each.
    """

    check_layer: int = check_layer()
    blend_gap_source: str = option("v", "blend: compare v (values) or k (post-RoPE keys) (v)")
    filter_layers: int = option(1, "blend: layers over which its choice narrows (1)")

    def __post_init__(self) -> None:
        require_layer(self.check_layer)
        check_gap_source(self.blend_gap_source)
        if self.filter_layers < 1:
            raise UserError(f"FILTER_LAYERS={self.filter_layers} must be at least 1")

    @property
    def deepest(self) -> int:
        return self.check_layer + self.filter_layers - 1

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        kept = probe.candidates
        for step in range(self.filter_layers):
            check = probe.check(self.check_layer + step)
            left = self.filter_layers - 1 - step
            count = probe.budget + probe.budget * left // max(self.filter_layers - 1, 1)
            kept = kept[top_k(deviation(check, self.blend_gap_source), count).sort().values]
            if left:
                probe.keep(kept)
        return kept


def check_gap_source(source: str) -> None:
    """Refuse anything but keys or values."""
    if source not in ("k", "v"):
        raise UserError(f"BLEND_GAP_SOURCE is k or v, not {source!r}")


def deviation(check: CheckLayer, source: str) -> Tensor:
    """Squared distance of fresh from cached values or keys, float32 ``[documents in flight]``."""
    n = len(check.documents)
    fresh, cached = (check.values, 1) if source == "v" else (check.keys, 0)
    gap = fresh[:, :n].float() - check.cached(cached)[:, :n].float()
    return gap.square().sum((0, 2))
