"""Floating point of 8 bits with a scale by group."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.codecs.affine import CODES, SCALE, beside, blocks, extremes, halved, nonzero
from models.codecs.grouped import Grouped

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
BIAS = 2.0 ** (127 - 7)  # float32's exponents begin so much lower than E4M3's


@dataclass
class Codec(Grouped):
    """E4M3 numbers, a group's largest at 448: each within 2⁻⁴ of itself.

    Small numbers of a group are held as exactly as large ones, unlike integers; numbers far from
    zero that differ little, as a key's channel may be, are not: a scale moves no zero.
    """

    def hold(self, kind: int, rows: Tensor, axis: int, size: int) -> dict[str, Tensor]:
        least, most = extremes(rows, axis, size)
        scale = halved(torch.maximum(most.float(), -least.float()) / LARGEST, int(LARGEST))
        codes = rows.new_empty(rows.shape, dtype=FP8)
        for (block, group), (target, _) in zip(
            blocks(rows, axis, size), blocks(codes, axis, size), strict=True
        ):
            steps = block.float() / nonzero(beside(scale, axis, group))
            target.copy_(steps.clamp_(-LARGEST, LARGEST))
        return {SCALE: scale, CODES: codes}

    def restore(
        self, kind: int, parts: Mapping[str, Tensor], out: Tensor, axis: int, size: int
    ) -> None:
        widen(parts[CODES], out)
        for block, group in blocks(out, axis, size):
            block.mul_(beside(parts[SCALE], axis, group).float())


def widen(codes: Tensor, out: Tensor) -> None:
    """E4M3 numbers as float32, by moving their bits to where float32 has them.

    PyTorch converts one number after another, which takes twenty times as long on a CPU.
    """
    bits = out.view(torch.int32)
    bits.copy_(codes.view(torch.int8))  # the sign is carried along to the left
    bits.bitwise_left_shift_(20).bitwise_and_(-0x78100000)  # 0x87f00000: sign, 4 + 3 bits
    out.mul_(BIAS)
