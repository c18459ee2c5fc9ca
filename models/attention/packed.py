"""Whole segments side by side, blind to each other: what capture attends with."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from models.attention.masked import MaskedRows


class PackedSegments:
    """Segments side by side in one row of tokens, each causal and blind to the others (capture).

    No padding exists, so none has to be masked; neighbours of equal length share one kernel call.

    Parameters
    ----------
    lengths : tokens of each segment, in order.
    front : keys before those of each segment, which all its rows see.
    """

    def __init__(self, lengths: list[int], front: int = 0) -> None:
        self.front = front
        self.groups: list[tuple[int, int, int]] = []
        start = 0
        for length, equal in groupby(lengths):
            count = len(list(equal))
            self.groups.append((start, count, length))
            start += count * length

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        before = 0  # keys of fronts that lie before this group
        for start, count, length in self.groups:
            end, seen = start + count * length, self.front + length
            q = query[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1)
            k, v = (
                x[0, :, before + start :][:, : count * seen]
                .unflatten(1, (count, seen))
                .transpose(0, 1)
                for x in (key, value)
            )
            if self.front:
                rows = MaskedRows(torch.arange(self.front, seen, device=query.device), seen)
                attended = rows.attend(q, k, v, scale)
            else:
                causal = sdpa(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
                attended = causal.transpose(1, 2)
            out[0, start:end] = attended.flatten(0, 1)
            before += count * self.front
        return out
