"""Where rows in flight go in a layer's cache, and what they see there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from models.attention.masked import Rows
from models.attention.registry import rows_for
from models.kv.cache import FusedCache, Slots

# A view keeps all of a pass's queries in memory: of more than so many times its own, copies.
FEW = 8


@dataclass(frozen=True)
class Place:
    """Rows in flight in one layer.

    Attributes
    ----------
    slots : where their keys and values go; a slice where they follow each other.
    length : valid rows of the layer once they are written.
    rows : their attention over these.
    """

    slots: Slots
    length: int
    rows: Rows


def places(
    cache: FusedCache,
    positions: Tensor,
    span: Slots,
    n_keys: int,
    backend: str,
    host: np.ndarray | None = None,
) -> list[Place]:
    """A place in every layer; layers from which as many rows were evicted share one.

    Parameters
    ----------
    positions : ``[R]`` sorted. span : the same as a slice, where they follow each other.
    n_keys : tokens that the rows see at most, those that were evicted counted.
    host : the positions on the host, where they are there already.

    Raises
    ------
    ValueError : a position lies among the ones of which some were evicted: there is no slot for it.
    """
    host = positions.cpu().numpy() if host is None else host
    made: dict[int, Place] = {}
    for layer in cache.layers:
        shift = layer.shift
        if layer.kept is not None and int(host[0]) + shift < layer.kept.shape[1]:
            raise ValueError(f"position {host[0]} lies among evicted ones")
        if shift not in made:
            moved = positions + shift if shift else positions
            slots = (
                slice(span.start + shift, span.stop + shift) if isinstance(span, slice) else moved
            )
            rows = rows_for(backend, moved, n_keys + shift, host + shift)
            made[shift] = Place(slots, n_keys + shift, rows)
    return [made[layer.shift] for layer in cache.layers]


class Watched:
    """Rows whose last ``count`` queries are kept on their way, ``[H, count, D]``.

    Views, which take neither time nor memory; copies where they are few of many.
    """

    def __init__(self, rows: Rows, count: int, kept: list[Tensor]) -> None:
        self.rows, self.count, self.kept = rows, count, kept

    def attend(self, query: Tensor, key: Any, value: Any, scale: float) -> Tensor:
        """As the rows themselves."""
        last = query[0, :, -self.count :]
        self.kept.append(last.clone() if query.shape[2] > FEW * self.count else last)
        return self.rows.attend(query, key, value, scale)
