"""What a codec is: rows of one layer's keys or values as bytes on disk, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from models.errors import UserError
from models.extension import Extension
from models.finite import require_finite

KEYS, VALUES = 0, 1
ROWS = "rows"  # the part that holds rows as they are, or in another floating type
LARGEST = 1e38  # a group's range and its sums stay below float32's and bfloat16's largest


class BaseCodec(ABC, Extension):
    """Turns rows into parts and back, kind by kind and layer by layer.

    Parts say by their names and dtypes alone what they are: a reader needs the codec and the shape
    of the rows, and nothing else.

    Attributes
    ----------
    version : raised whenever the same rows would give other bytes, or the same bytes other rows.
    """

    version: ClassVar[int] = 1

    def lossless(self, dtype: torch.dtype) -> bool:
        """Whether rows of this dtype come back as they were, to the bit."""
        return False

    def encode(self, kind: int, layer: int, n_layers: int, rows: Tensor) -> dict[str, Tensor]:
        """Rows as contiguous tensors on the CPU by part name, to be written in this order.

        Parameters
        ----------
        kind : ``KEYS``, unrotated, or ``VALUES``.
        rows : ``[H_kv, n, D]`` in the model's dtype.

        Raises
        ------
        NotFinite : rows hold NaN or infinite values.
        UserError : rows are beyond what any codec holds.
        """
        what = f"the {'values' if kind else 'keys'} of layer {layer}"
        require_finite(rows, what)
        if rows.numel() and float(rows.abs().amax()) > LARGEST:
            raise UserError(f"{what} reach beyond {LARGEST:g}; look for damage in the weights")
        parts = self.pack(kind, layer, n_layers, rows)
        return {name: part.cpu().contiguous() for name, part in parts.items()}

    @abstractmethod
    def pack(self, kind: int, layer: int, n_layers: int, rows: Tensor) -> dict[str, Tensor]:
        """As :meth:`encode`, of rows that were looked at, on any device."""

    @abstractmethod
    def decode(self, kind: int, parts: Mapping[str, Tensor], out: Tensor) -> None:
        """Fill ``out`` ``[H_kv, n, D]``, a view of the cache whose last dimension is contiguous.

        Parameters
        ----------
        parts : what :meth:`encode` gave for this kind and layer, on the device of ``out``.
        """


def fill(out: Tensor, rows: Tensor) -> None:
    """Put rows into the cache in its dtype; what float16 cannot hold becomes its largest."""
    if out.dtype == torch.float16 and rows.dtype != torch.float16:
        largest = torch.finfo(torch.float16).max
        rows = rows.clamp(-largest, largest)
    out.copy_(rows)
