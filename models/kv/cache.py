"""A preallocated KV cache whose rows can be overwritten at scattered positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from models.kv.transfer import LayerStream

Slots = slice | Tensor
# Changes a layer's cached rows, [2, H_kv, N, D], in place, given its fresh keys and values.
Correct = Callable[[int, Tensor, tuple[Tensor, Tensor]], None]


class FusedLayer(CacheLayerMixin):
    """One layer's view of the shared buffer.

    ``update`` writes fresh rows into the slots that the cache was last told and returns keys and
    values of the whole prompt so far.
    """

    is_sliding = False

    def __init__(self, owner: FusedCache, layer: int) -> None:
        super().__init__()
        self.owner = owner
        self.layer = layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer exists before the first row comes."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Overwrite rows, return all of them.

        Parameters
        ----------
        key_states, value_states : ``[1, H_kv, R, D]`` of the rows in flight.

        Returns
        -------
        keys, values : ``[1, H_kv, length, D]`` views of the buffer.
        """
        self.owner.arrive(self.layer)
        slots, length = self.owner.slots, self.owner.length
        if self.owner.correct:
            cached = self.owner.kv[:, self.layer, :, :length]
            self.owner.correct(self.layer, cached, (key_states[0], value_states[0]))
        full = []
        for kind, rows in enumerate((key_states[0], value_states[0])):
            target = self.owner.kv[kind, self.layer]
            if isinstance(slots, slice):
                target[:, slots] = rows
            else:
                target.index_copy_(1, slots, rows)
            full.append(target[None, :, :length])
        return full[0], full[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.length, 0

    def get_seq_length(self) -> int:
        return self.owner.length

    def get_max_length(self) -> int:
        return self.owner.capacity


class FusedCache(Cache):
    """Keys and values of one prompt in one buffer ``[2, L, H_kv, capacity, D]`` (0 = keys).

    Keys are rotated once the prefill has begun. ``length`` is the number of valid rows; it is state
    of its own, not the buffer's physical size. While ``stream`` is set, layers come in one by one;
    while ``correct`` is, a layer's cached rows are corrected before its fresh ones are written.
    """

    def __init__(
        self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        n_layers, n_heads, head_dim = shape
        self.kv = torch.empty(2, n_layers, n_heads, 0, head_dim, device=device, dtype=dtype)
        self.slots: Slots = slice(0, 0)
        self.length = 0
        self.stream: LayerStream | None = None
        self.correct: Correct | None = None
        super().__init__(layers=[FusedLayer(self, layer) for layer in range(n_layers)])

    @property
    def capacity(self) -> int:
        """Rows that fit without a new allocation."""
        return self.kv.shape[3]

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows, keeping the valid ones.

        Fresh large tensors cost more than the copy into them, so the buffer only ever grows;
        whoever times something reserves first.
        """
        if rows <= self.capacity:
            return
        n_layers, n_heads, head_dim = self.shape
        valid = self.length
        if valid == 0:  # let go of it before the larger one is taken
            self.kv = self.kv.new_empty(2, n_layers, n_heads, 0, head_dim)
        old = self.kv
        # Touched here, so that no prefill pays for the pages' first use.
        self.kv = old.new_empty(2, n_layers, n_heads, rows, head_dim).zero_()
        if valid:
            self.kv[:, :, :, :valid] = old[:, :, :, :valid]

    def arrive(self, layer: int) -> None:
        """See to it that a layer's cached rows are there, where they still come in by a stream."""
        if self.stream:
            self.stream.arrive(layer)

    def end_stream(self) -> None:
        """Let go of a stream; what it still copies is waited for, or it would land in later use."""
        if self.stream:
            self.stream.drain()
        self.stream = None

    def rows(self, kind: int, layer: int, slots: Slots) -> Tensor:
        """Keys (``kind`` 0) or values (1) of some rows of one layer, ``[H_kv, R, D]``."""
        self.arrive(layer)
        return self.kv[kind, layer][:, slots]

    def place(self, slots: Slots, length: int) -> None:
        """Say where the next rows go and how many rows are valid once they are written."""
        self.slots, self.length = slots, length
