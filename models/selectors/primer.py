"""Ours: chunks captured in company, a look ahead, and more weight on the first rows of chunks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.selectors.base import BaseSelector, option, top_k
from models.selectors.prophet import look


@dataclass
class Selector(BaseSelector):
    """Top-k of the question's attention over all layers, times (place in the chunk + 1)^-decay.

    Three parts, each of which pays by itself (docs/method.md has the evidence):

    - Chunks are captured behind the task's prefix and 256 tokens of other text
      (``CONTEXT=primed:256``), since in a prompt they continue a text and do not begin one.
    - The first chunk is captured behind the prefix alone: its KVs are exact, and none of its rows
      is ever chosen.
    - The question runs ahead over the cached KVs, as in ``prophet``, but looks from two to three
      fifths of the depth only, and goes no further. A chunk's first rows lack more of their context
      than its last ones; ``decay`` tells by how much more they are worth recomputing.

    Cost: the question's rows through three fifths of the layers, and their attention weights in one
    fifth; nothing where the budget is 0.
    """

    decay: float = option(0.8, "primer: how fast a chunk's rows lose weight with their place (0.8)")

    context = "primed:256"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise UserError(f"DECAY={self.decay} must be a number, at least 0")

    def select(self, probe: Probe) -> Tensor:
        """At most ``k`` positions; fewer where fewer rows are not exact."""
        inexact = probe.candidates[probe.exact :]
        if not (probe.budget and len(inexact)):
            return probe.candidates[:0]
        total = look(probe, looked_at(probe.n_layers))
        places = [
            torch.arange(1, end - start + 1, device=probe.device)
            for start, end in probe.prompt.chunks
        ]
        scores = total * torch.cat(places).pow(-self.decay)
        return inexact[top_k(scores[probe.exact :], probe.budget)]


def looked_at(n_layers: int) -> range:
    """Layers from two to three fifths of the depth, one at least."""
    first = 2 * n_layers // 5
    return range(first, max(3 * n_layers // 5, first + 1))
