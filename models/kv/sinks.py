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
    front : keys that stand before those of each segment, and whose own rows are not run.

    Attributes
    ----------
    received : float32 ``[R]``, mean over layers, heads and the segment's rows once all layers ran;
        a segment's sum is 1, less what a front draws. The front's rows count, as a header's do.
    """

    def __init__(
        self,
        rows: Rows,
        lengths: list[int],
        n_layers: int,
        device: torch.device,
        front: int = 0,
    ) -> None:
        self.rows = rows
        self.front = front
        self.spans = list(pairwise(accumulate(lengths, initial=0)))
        self.n_layers = n_layers
        self.received = torch.zeros(sum(lengths), device=device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        before = 0  # keys of fronts up to here, this segment's among them
        for first, end in self.spans:
            before += self.front
            share = 1 / query.shape[1] / (end - first + self.front) / self.n_layers
            for start in range(first, end, ROWS):
                seen = slice(first, min(start + ROWS, end))
                rows = slice(start, seen.stop)
                keys = slice(before - self.front + first, before + seen.stop)
                weights = group_attention(query[0, :, rows], key[0, :, keys], scale)
                self.received[seen] += received_attention(weights)[self.front :] * share
        return self.rows.attend(query, key, value, scale)
