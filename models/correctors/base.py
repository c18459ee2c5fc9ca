"""What a corrector is: what is added to cached rows that are not recomputed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from models.extension import Extension

KEYS, VALUES = 0, 1


@dataclass(frozen=True)
class Change:
    """What recomputing some rows of a chunk changed in one layer.

    Attributes
    ----------
    layer : of the model.
    rows : how many rows of the chunk were recomputed, at least one and not all.
    of : ``KEYS`` or ``VALUES`` → fresh - cached of these rows, ``[H_kv, rows, D]`` float32. Keys
        are compared without their rotation. Computed when asked for.
    at : where these rows lie in the chunk, ``[rows]``, rising.
    cached : ``KEYS`` or ``VALUES`` → all rows of the chunk as they are cached,
        ``[H_kv, length, D]`` float32, keys without their rotation. Computed when asked for.
    """

    layer: int
    rows: int
    of: Callable[[int], Tensor]
    at: Tensor
    cached: Callable[[int], Tensor]


class BaseCorrector(ABC, Extension):
    """Changes the cached rows of a chunk by what its recomputed rows turned out to be."""

    @abstractmethod
    def correct(self, change: Change) -> dict[int, Tensor]:
        """What to add to the rows of this chunk that are not recomputed, in this layer.

        Returns
        -------
        ``KEYS`` and ``VALUES``, or one of them, to float32 ``[H_kv, D]``, the same for all rows, or
        ``[H_kv, length, D]``, one for each row of the chunk (what it says of recomputed rows is not
        used); keys without a rotation: each row gets it turned to its own position.
        """
