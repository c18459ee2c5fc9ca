"""Attention sinks, found offline: how much attention each token draws within its own segment."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attention.packed import PackedSegments
from models.question import group_attention, received_attention

ROWS = 512  # weights are held for so many rows at once: a long segment's would not fit


class SinkSegments(PackedSegments):
    """Segments side by side that add up, layer by layer, the attention that each row draws.

    Attributes
    ----------
    received : float32 ``[R]``, mean over layers, heads and the segment's rows once all layers ran;
        a segment's sum is 1.
    """

    def __init__(self, lengths: list[int], n_layers: int, device: torch.device) -> None:
        super().__init__(lengths)
        self.n_layers = n_layers
        self.received = torch.zeros(sum(lengths), device=device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        for start, count, length in self.groups:
            for first in range(start, start + count * length, length):
                for done in range(0, length, ROWS):
                    upto = min(done + ROWS, length)
                    seen = slice(first, first + upto)
                    rows = slice(first + done, first + upto)
                    weights = group_attention(query[0, :, rows], key[0, :, seen], scale)
                    share = 1 / query.shape[1] / length / self.n_layers
                    self.received[seen] += received_attention(weights) * share
        return super().attend(query, key, value, scale)
