"""A preallocated KV cache whose rows can be overwritten at scattered positions.

Where a row lies (its slot) and where its token stands (its position) are two things: they are the
same until rows are evicted, layer by layer and KV head by KV head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from models.kv.transfer import Arriving

Slots = slice | Tensor
# Changes a layer's cached rows, [2, H_kv, N, D], in place, given its fresh keys and values.
Correct = Callable[[int, Tensor, tuple[Tensor, Tensor]], None]


class FusedLayer(CacheLayerMixin):
    """One layer's view of the shared buffer, and which positions its rows hold.

    ``update`` writes fresh rows into the slots that the layer was last told and returns keys and
    values of all its rows. Rows lie in the order of their positions.

    Attributes
    ----------
    length : valid rows, once those in flight are written.
    kept : int64 ``[H_kv, k]``, the positions of the first ``k`` rows where others were evicted
        among them, ascending; None where nothing was. All rows behind them follow each other.
    shift : slot minus position of these; 0 where nothing was evicted.
    """

    is_sliding = False

    def __init__(self, owner: FusedCache, layer: int) -> None:
        super().__init__()
        self.owner = owner
        self.layer = layer
        self.length = 0
        self.kept: Tensor | None = None
        self.shift = 0
        self.slots: Slots = slice(0, 0)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer exists before the first row comes."""

    @property
    def seen(self) -> int:
        """Tokens that passed here, kept or not: the next row's position."""
        return self.length - self.shift

    @property
    def positions(self) -> Tensor:
        """Position of every row, int64 ``[H_kv, length]``."""
        n_heads, device = self.owner.kv.shape[2], self.owner.kv.device
        first = 0 if self.kept is None else self.kept.shape[1]
        behind = torch.arange(first - self.shift, self.seen, device=device).expand(n_heads, -1)
        return behind if self.kept is None else torch.cat([self.kept, behind], 1)

    def clear(self) -> None:
        """Hold nothing."""
        self.length, self.kept, self.shift = 0, None, 0

    def place(self, slots: Slots, length: int) -> None:
        """Say where the next rows go and how many rows are valid once they are written."""
        self.slots, self.length = slots, length

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
        slots, length = self.slots, self.length
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

    def keep(self, slots: Tensor, source: FusedLayer | None = None) -> None:
        """Keep these rows only, of this layer or, copied here, of another cache's.

        Parameters
        ----------
        slots : int64 ``[H_kv, k]``, ascending: rows stay in the order of their positions.
        """
        source = source or self
        rows = source.owner.kv[:, source.layer]
        index = slots[None, :, :, None].expand(2, -1, -1, rows.shape[3])
        self.owner.kv[:, self.layer, :, : slots.shape[1]] = rows.gather(2, index)
        kept, seen = source.positions.gather(1, slots), source.seen
        self.kept, self.length, self.shift = kept, slots.shape[1], slots.shape[1] - seen

    def copy(self, source: FusedLayer) -> None:
        """Hold what a layer of another cache holds; there must be room."""
        rows = source.owner.kv[:, source.layer, :, : source.length]
        self.owner.kv[:, self.layer, :, : source.length] = rows
        self.kept, self.length, self.shift = source.kept, source.length, source.shift

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.owner.capacity


class FusedCache(Cache):
    """Keys and values of one prompt in one buffer ``[2, L, H_kv, capacity, D]`` (0 = keys).

    Keys are rotated once the prefill has begun. How many rows are valid, and which positions they
    hold, each layer knows by itself; the buffer's physical size says nothing of it. While
    ``stream`` is set, layers come in one by one; while ``correct`` is, a layer's cached rows are
    corrected before its fresh ones are written.

    Parameters
    ----------
    shape : ``(L, H_kv, D)``.
    kv : memory to use, as long as it is not to grow.
    """

    layers: list[FusedLayer]  # type: ignore[assignment]

    def __init__(
        self,
        shape: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        kv: Tensor | None = None,
    ) -> None:
        self.shape = shape
        n_layers, n_heads, head_dim = shape
        if kv is None:
            kv = torch.empty(2, n_layers, n_heads, 0, head_dim, device=device, dtype=dtype)
        self.kv = kv
        self.stream: Arriving | None = None
        self.correct: Correct | None = None
        super().__init__(layers=[FusedLayer(self, layer) for layer in range(n_layers)])

    @property
    def capacity(self) -> int:
        """Rows that fit without a new allocation."""
        return self.kv.shape[3]

    @property
    def lengths(self) -> list[int]:
        """Valid rows of every layer."""
        return [layer.length for layer in self.layers]

    @lengths.setter
    def lengths(self, lengths: Sequence[int]) -> None:
        for layer, length in zip(self.layers, lengths, strict=True):
            layer.length = length

    @property
    def length(self) -> int:
        """Valid rows of the layer that has most."""
        return max(self.lengths, default=0)

    @property
    def seen(self) -> int:
        """Tokens that passed, kept or not: the next row's position in every layer."""
        return self.layers[0].seen

    @property
    def bytes(self) -> int:
        """Bytes of all valid rows' keys and values."""
        _, n_heads, head_dim = self.shape
        return 2 * sum(self.lengths) * n_heads * head_dim * self.kv.itemsize

    def clear(self) -> None:
        """Hold nothing."""
        for layer in self.layers:
            layer.clear()

    def rewind(self, seen: int) -> None:
        """Go on after so many tokens: forget the rows that lie behind them.

        Raises
        ------
        ValueError : some of the tokens before were evicted since, and others kept: nothing tells
            what was there.
        """
        for layer in self.layers:
            least = 0 if layer.kept is None else layer.kept.shape[1]
            if not least <= seen + layer.shift <= layer.length:
                raise ValueError(f"the cache cannot go back to {seen} tokens of {layer.seen}")
            layer.length = seen + layer.shift

    def copy(self, source: FusedCache) -> None:
        """Hold what another cache holds; there must be room."""
        length = source.length
        self.kv[:, :, :, :length] = source.kv[:, :, :, :length]
        for layer, other in zip(self.layers, source.layers, strict=True):
            layer.length, layer.kept, layer.shift = other.length, other.kept, other.shift

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
