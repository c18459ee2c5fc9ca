"""QCFuse: the question looks at anchors, then at one layer (Yan et al., 2026, arXiv:2606.05875)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.question import group_attention
from models.selectors.base import BaseSelector, option, top_k
from models.selectors.prophet import document_share


@dataclass
class Selector(BaseSelector):
    """Top-k of the question's attention at one late layer, reached over a few tokens of each chunk.

    Below the critical layer the question's rows see the prefix, each other and the *anchors* of
    each chunk, nothing else; at that layer they look at the cached keys of all documents. A token's
    score is its share of that attention, mean over heads and rows.

    After QCFuse: we had its abstract ("compact per-chunk anchors", "critical-layer profiling"). Our
    anchors are the tokens that drew most attention in their own chunk (stage 2 with ``SINKS=1``),
    and our critical layer is the one at two thirds of the depth; a model's own profile may be given
    instead (``CRITICAL_LAYER``).

    Cost: the question's rows through the layers below over few keys, and one layer's weights.
    """

    anchors: int = option(16, "qcfuse: tokens of each chunk that the question sees on its way (16)")
    critical_layer: int | None = option(None, "qcfuse: layer that decides (at 2/3 of the depth)")

    def __post_init__(self) -> None:
        if self.anchors < 0:
            raise UserError(f"ANCHORS={self.anchors} must be at least 0")
        if self.critical_layer is not None and self.critical_layer < 0:
            raise UserError(f"CRITICAL_LAYER={self.critical_layer} must be at least 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sinks",)

    @property
    def deepest(self) -> int:
        return self.critical_layer or 0

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        if not len(probe.candidates):
            return probe.candidates
        layer = self.critical_layer
        if layer is None:
            layer = probe.n_layers * 2 // 3
        asked = probe.glance(layer, self._anchors(probe))
        weights = group_attention(asked.queries, asked.keys, probe.scale)
        return probe.candidates[top_k(document_share(probe, weights), probe.budget)]

    def _anchors(self, probe: Probe) -> Tensor:
        """Sorted positions, ``[A]``."""
        scores, first = probe.scores("sinks"), probe.prompt.documents[0]
        found = [
            start + top_k(scores[start - first : end - first], self.anchors).sort().values
            for start, end in probe.prompt.chunks
        ]
        return torch.cat([probe.candidates[:0], *found])
