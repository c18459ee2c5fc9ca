"""Where rows in flight go in a layer's cache, and what they see there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.attention.masked import Rows
from models.attention.registry import rows_for
from models.kv.cache import FusedCache, Slots


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
    cache: FusedCache, positions: Tensor, span: Slots, n_keys: int, backend: str
) -> list[Place]:
    """A place in every layer; layers from which as many rows were evicted share one.

    Parameters
    ----------
    positions : ``[R]`` sorted. span : the same as a slice, where they follow each other.
    n_keys : tokens that the rows see at most, those that were evicted counted.

    Raises
    ------
    ValueError : a position lies among the ones of which some were evicted: there is no slot for it.
    """
    made: dict[int, Place] = {}
    for layer in cache.layers:
        shift = layer.shift
        if layer.kept is not None and int(positions[0]) + shift < layer.kept.shape[1]:
            raise ValueError(f"position {int(positions[0])} lies among evicted ones")
        if shift not in made:
            moved = positions + shift if shift else positions
            slots = (
                slice(span.start + shift, span.stop + shift) if isinstance(span, slice) else moved
            )
            made[shift] = Place(slots, n_keys + shift, rows_for(backend, moved, n_keys + shift))
    return [made[layer.shift] for layer in cache.layers]
