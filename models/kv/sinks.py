"""Attention sinks, found offline: how much attention each token draws within its own segment."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from models.attention.masked import Rows
from models.question import group_attention, received_attention

ROWS = 512  # weights are held for so many rows at once: a long segment's would not fit


class SinkSegments:
    """Segments side by side that add up, layer by layer, the attention that each row draws.

    Parameters
    ----------
    rows : what attends them. lengths : tokens of each segment, in order.

    Attributes
    ----------
    received : float32 ``[R]``, mean over layers, heads and the segment's rows once all layers ran;
        a segment's sum is 1.
    """

    def __init__(self, rows: Rows, lengths: list[int], n_layers: int, device: torch.device) -> None:
        self.rows = rows
        self.spans = list(pairwise(accumulate(lengths, initial=0)))
        self.n_layers = n_layers
        self.received = torch.zeros(sum(lengths), device=device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        for first, end in self.spans:
            share = 1 / query.shape[1] / (end - first) / self.n_layers
            for start in range(first, end, ROWS):
                seen = slice(first, min(start + ROWS, end))
                rows = slice(start, seen.stop)
                weights = group_attention(query[0, :, rows], key[0, :, seen], scale)
                self.received[seen] += received_attention(weights) * share
        return self.rows.attend(query, key, value, scale)
