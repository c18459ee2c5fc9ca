"""What codecs of few bits share: groups, spared layers, mixed keys.

Keys are unrotated, and some of their channels stand out in all tokens alike: their groups are
tokens of one channel. Values have no such channels: their groups are channels of one token (KIVI;
Liu et al., 2024, arXiv:2402.02750). Mixing keys by a Hadamard matrix is QuaRot's (Ashkboos et al.,
2024, arXiv:2404.00456).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.codecs.affine import CODES, pack_nibbles, quantise, restore, unpack_nibbles
from models.codecs.base import KEYS, ROWS, BaseCodec, fill
from models.codecs.hadamard import mixed
from models.errors import UserError
from models.extension import option


@dataclass
class Grouped(BaseCodec):
    """Numbers of few bits by groups. A subclass says how a group is held."""

    tokens: int = option(64, "codecs: tokens of a key channel that share a scale (64)")
    channels: int = option(64, "codecs: channels of a token's value that share a scale (64)")
    hadamard: bool = option(False, "codecs: mix the channels of keys (0)")
    spare: int = option(0, "codecs: so many first and last layers are kept as they are (0)")

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("channels", 1), ("spare", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name.upper()}={getattr(self, name)} must be at least {least}")

    def pack(self, kind: int, layer: int, n_layers: int, rows: Tensor) -> dict[str, Tensor]:
        if min(layer, n_layers - 1 - layer) < self.spare:
            return {ROWS: rows}
        if self._mixes(kind):
            rows = mixed(rows.float())
        return self.hold(kind, rows, *self._groups(kind))

    def decode(self, kind: int, parts: Mapping[str, Tensor], out: Tensor) -> None:
        if ROWS in parts:
            out.copy_(parts[ROWS])
            return
        mixes = self._mixes(kind)
        direct = out.dtype == torch.float32 and not mixes
        rows = out if direct else torch.empty(out.shape, dtype=torch.float32, device=out.device)
        self.restore(kind, parts, rows, *self._groups(kind))
        if not direct:
            fill(out, mixed(rows) if mixes else rows)

    @abstractmethod
    def hold(self, kind: int, rows: Tensor, axis: int, size: int) -> dict[str, Tensor]:
        """Rows ``[H_kv, n, D]`` as parts, in groups of ``size`` along ``axis``."""

    @abstractmethod
    def restore(
        self, kind: int, parts: Mapping[str, Tensor], out: Tensor, axis: int, size: int
    ) -> None:
        """The inverse of :meth:`hold`, into ``out``, float32."""

    def _groups(self, kind: int) -> tuple[int, int]:
        return (1, self.tokens) if kind == KEYS else (2, self.channels)

    def _mixes(self, kind: int) -> bool:
        return self.hadamard and kind == KEYS


class Integers(Grouped):
    """Integers of 8 or 4 bits between a group's least and largest number.

    Attributes
    ----------
    bits : of a key's number and of a value's, 8 or 4.
    """

    bits: ClassVar[tuple[int, int]]

    def hold(self, kind: int, rows: Tensor, axis: int, size: int) -> dict[str, Tensor]:
        bits = self.bits[kind]
        parts = quantise(rows, axis, size, 2**bits - 1)
        return parts if bits == 8 else {**parts, CODES: pack_nibbles(parts[CODES])}

    def restore(
        self, kind: int, parts: Mapping[str, Tensor], out: Tensor, axis: int, size: int
    ) -> None:
        if self.bits[kind] == 8:
            out.copy_(parts[CODES])
        else:
            unpack_nibbles(parts[CODES], out)
        restore(parts, axis, size, out)
