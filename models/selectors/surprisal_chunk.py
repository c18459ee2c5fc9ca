"""The tokens that surprised the model most while it read each chunk by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector, top_k
from models.selectors.shares import largest_remainder


@dataclass
class Selector(BaseSelector):
    """Top by −log p(x_t | x_<t) within each chunk, k shared over chunks by length.

    The scores come from stage 2's own forward (``SURPRISAL=1``). Cost: reading them.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("surprisal",)

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        scores = probe.scores("surprisal")
        first = probe.prompt.documents[0]
        chunks = probe.prompt.chunks
        counts = largest_remainder([end - start for start, end in chunks], probe.budget)
        best = [
            start + top_k(scores[start - first : end - first], count)
            for (start, end), count in zip(chunks, counts, strict=True)
        ]
        return torch.cat([probe.candidates[:0], *best])
