"""Attention sinks, found offline: how much attention each token draws within its own segment."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attention.masked import Rows
from models.question import group_attention, received_attention

ROWS = 512  # weights are held for so many rows at once: a long segment's would not fit


class SinkRows:
    """A segment's rows, which add up, layer by layer, the attention that each of them draws.

    Parameters
    ----------
    rows : what attends them. length : how many they are.
    front : keys that stand before them, and whose own rows are not run.

    Attributes
    ----------
    received : float32 ``[length]``, mean over layers, heads and rows once all layers ran; the sum
        is 1, less what the front draws. The front's rows count, as a header's do.
    """

    def __init__(
        self, rows: Rows, length: int, n_layers: int, device: torch.device, front: int = 0
    ) -> None:
        self.rows = rows
        self.front = front
        self.n_layers = n_layers
        self.received = torch.zeros(length, device=device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        length = len(self.received)
        share = 1 / query.shape[1] / (length + self.front) / self.n_layers
        for start in range(0, length, ROWS):
            end = min(start + ROWS, length)
            seen = key[0, :, : self.front + end]
            weights = group_attention(query[0, :, start:end], seen, scale)
            self.received[:end] += received_attention(weights)[self.front :] * share
        return self.rows.attend(query, key, value, scale)
