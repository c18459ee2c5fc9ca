"""Rows in bfloat16: half of float32's bytes, and nothing to decode but its missing bits."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.codecs.base import ROWS, BaseCodec, fill


@dataclass
class Codec(BaseCodec):
    """Each number to the nearest bfloat16: within 2⁻⁸ of itself.

    For a float32 run; in a bfloat16 run it changes nothing.
    """

    def lossless(self, dtype: torch.dtype) -> bool:
        return dtype == torch.bfloat16

    def pack(self, kind: int, layer: int, n_layers: int, rows: Tensor) -> dict[str, Tensor]:
        return {ROWS: rows.to(torch.bfloat16)}

    def decode(self, kind: int, parts: Mapping[str, Tensor], out: Tensor) -> None:
        fill(out, parts[ROWS])
