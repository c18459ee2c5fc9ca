"""Whole segments side by side, blind to each other: what capture attends with."""

from __future__ import annotations

from itertools import groupby

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa


class PackedSegments:
    """Segments side by side in one row of tokens, each causal and blind to the others (capture).

    No padding exists, so none has to be masked; neighbours of equal length share one kernel call.

    Parameters
    ----------
    lengths : tokens of each segment, in order.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.groups: list[tuple[int, int, int]] = []
        start = 0
        for length, equal in groupby(lengths):
            count = len(list(equal))
            self.groups.append((start, count, length))
            start += count * length

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        for start, count, length in self.groups:
            end = start + count * length
            q, k, v = (
                x[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1)
                for x in (query, key, value)
            )
            attended = sdpa(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            out[0, start:end] = attended.transpose(1, 2).flatten(0, 1)
        return out
