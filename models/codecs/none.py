"""Rows as they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.codecs.base import ROWS, BaseCodec


@dataclass
class Codec(BaseCodec):
    """Every bit of the model's dtype is kept."""

    def lossless(self, dtype: torch.dtype) -> bool:
        return True

    def pack(self, kind: int, layer: int, n_layers: int, rows: Tensor) -> dict[str, Tensor]:
        return {ROWS: rows}

    def decode(self, kind: int, parts: Mapping[str, Tensor], out: Tensor) -> None:
        out.copy_(parts[ROWS])
