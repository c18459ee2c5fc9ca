"""Groups of numbers as small integers between their least and largest, in steps of a half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

LOW, SCALE, CODES = "low", "scale", "codes"


def blocks(tensor: Tensor, axis: int, size: int) -> Iterator[tuple[Tensor, slice]]:
    """Views of a tensor cut along an axis into groups of ``size``, the last one what is left.

    Yields
    ------
    ``[..., groups, size, ...]``, and which groups these are: all whole ones, then the last.
    """
    length = tensor.shape[axis]
    whole, rest = divmod(length, size)
    if whole:
        yield tensor.narrow(axis, 0, whole * size).unflatten(axis, (whole, size)), slice(whole)
    if rest:
        last = tensor.narrow(axis, whole * size, rest).unsqueeze(axis)
        yield last, slice(whole, whole + 1)


def extremes(rows: Tensor, axis: int, size: int) -> tuple[Tensor, Tensor]:
    """Each group's least and largest number, in the shape of ``rows`` but for the axis."""
    found = [block.aminmax(dim=axis + 1) for block, _ in blocks(rows, axis, size)]
    least, most = zip(*found, strict=True)
    return torch.cat(least, axis), torch.cat(most, axis)


def halved(scale: Tensor, levels: int) -> Tensor:
    """Float32 scales in half precision; as they are where one of them is too large or small for it.

    A scale is good enough where the last of its ``levels`` moves by less than a quarter of one.
    """
    half = scale.to(torch.float16)
    enough = (half.float() - scale).abs() * levels <= scale / 4
    return half if bool(enough.all()) else scale


def quantise(rows: Tensor, axis: int, size: int, levels: int) -> dict[str, Tensor]:
    """Codes 0 .. ``levels``, and what they stand for: ``low + code · scale``.

    ``low`` is a group's least in the rows' dtype, so a group of equal numbers is exact. ``scale``,
    its range over ``levels``, is rounded *before* codes are taken, so that they make up for it: no
    number is further than ``scale / 2`` from its code, float32's rounding aside. What was read from
    float32 gives the same bytes again, unless a group's range is below a thousandth of its numbers:
    their rounding may move the scale's last bit then.

    Parameters
    ----------
    rows : ``[H, n, D]``. axis : 1, groups of tokens by channel; 2, groups of channels by token.
    """
    low, most = extremes(rows, axis, size)
    scale = halved((most.float() - low.float()) / levels, levels)
    codes = rows.new_empty(rows.shape, dtype=torch.uint8)
    for (block, group), (target, _) in zip(
        blocks(rows, axis, size), blocks(codes, axis, size), strict=True
    ):
        above = block.float() - beside(low, axis, group).float()
        steps = above.div_(nonzero(beside(scale, axis, group)))
        target.copy_(steps.round_().clamp_(0, levels))
    return {LOW: low, SCALE: scale, CODES: codes}


def nonzero(scale: Tensor) -> Tensor:
    """Scales to divide by, float32: 1 where all of a group is the same."""
    return torch.where(scale > 0, scale, torch.ones_like(scale)).float()


def restore(parts: Mapping[str, Tensor], axis: int, size: int, out: Tensor) -> None:
    """``low + code · scale`` in place of the codes that ``out`` holds, float32 ``[H, n, D]``."""
    for block, group in blocks(out, axis, size):
        block.mul_(beside(parts[SCALE], axis, group).float())
        block.add_(beside(parts[LOW], axis, group))


def beside(tensor: Tensor, axis: int, groups: slice) -> Tensor:
    """What there is one of by group, shaped for its :func:`blocks`: ``[..., groups, 1, ...]``."""
    return tensor[(slice(None),) * axis + (groups,)].unsqueeze(axis + 1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes below 16, ``[..., D]``, two a byte: of ``D / 2`` bytes, the first half lies low."""
    low, high = codes.tensor_split([codes.shape[-1] // 2], -1)
    return low | (high << 4)


def unpack_nibbles(packed: Tensor, out: Tensor) -> None:
    """The inverse of :func:`pack_nibbles`, into ``out`` ``[..., D]`` of any dtype."""
    low, high = out.tensor_split([out.shape[-1] // 2], -1)
    low.copy_(packed & 15)
    high.copy_(packed >> 4)
