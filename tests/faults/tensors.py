"""Damage to an item's files that PyTorch writes again, with the old digest or with a right one."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from models.kv.format import digest
from tests.faults.damage import Damage, Hit, flip

Content = dict[str, Any]


def name_of(content: Content) -> str:
    """The tensor's key."""
    return "kv" if "kv" in content else "scores"


def resaved(change: Callable[[Content, Random], Any], sealed: bool = False) -> Damage:
    """Change what the file holds; ``sealed`` takes the digest of what it holds then."""

    def damage(hit: Hit) -> None:
        content = torch.load(hit.path, weights_only=True)
        change(content, hit.rng)
        if sealed:
            content["digest"] = digest(content)
        torch.save(content, hit.path)

    return damage


def put(values: tuple[float, ...]) -> Callable[[Content, Random], None]:
    """One value of the tensor becomes another."""

    def change(content: Content, rng: Random) -> None:
        flat = content[name_of(content)].view(-1)
        flat[rng.randrange(len(flat))] = rng.choice(values)

    return change


def next_value(content: Content, rng: Random) -> None:
    """One value of the tensor becomes its neighbour: the smallest change that there is."""
    flat = content[name_of(content)].view(-1)
    place = rng.randrange(len(flat))
    flat[place] = torch.nextafter(flat[place], torch.tensor(math.inf, dtype=flat.dtype))


def lose_key(content: Content, rng: Random) -> None:
    del content[rng.choice(list(content))]


def rename_key(content: Content, rng: Random) -> None:
    key = rng.choice(list(content))
    content[rng.choice([key + "s", key.upper(), key[:-1]])] = content.pop(key)


def edit_meta(content: Content, rng: Random) -> None:
    """A field of the meta becomes another value, or is gone."""
    meta = content["meta"]
    holder = rng.choice([meta, *(value for value in meta.values() if isinstance(value, dict))])
    key = rng.choice(list(holder))
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = rng.choice([None, 0, "x", [], {}, [holder[key]], str(holder[key]) + "0"])


def half(content: Content, rng: Random) -> None:
    key = name_of(content)
    content[key] = content[key].to(rng.choice([torch.bfloat16, torch.float16, torch.float64]))


def half_and_says_so(content: Content, rng: Random) -> None:
    half(content, rng)
    content["meta"]["dtype"] = str(content[name_of(content)].dtype).removeprefix("torch.")


def turned(content: Content, rng: Random) -> None:
    """The same values in the same shape, stored in another order of memory or of rows."""
    tensor: Tensor = content[name_of(content)]
    if tensor.dim() == 1 or rng.random() < 0.5:
        content[name_of(content)] = tensor.flip(rng.randrange(tensor.dim()))
    else:
        content[name_of(content)] = tensor.transpose(2, 3).contiguous().transpose(2, 3)


def cut(content: Content, rng: Random) -> None:
    """Fewer tokens, or none."""
    key = name_of(content)
    tensor: Tensor = content[key]
    axis = 3 if tensor.dim() == 5 else 0
    content[key] = tensor.narrow(axis, 0, rng.randrange(tensor.shape[axis])).clone()


def zeros(content: Content, rng: Random) -> None:
    content[name_of(content)].zero_()


def foreign(hit: Hit) -> None:
    """Something that PyTorch reads, and that is no item's file; or a program."""
    content = torch.load(hit.path, weights_only=True)
    tensor = content[name_of(content)]
    other = hit.rng.choice([[], None, "kv", tensor, OrderedDict(content), {}, [content], print])
    torch.save(other, hit.path)


def legacy(hit: Hit) -> None:
    """PyTorch's older form, which cannot be mapped."""
    content = torch.load(hit.path, weights_only=True)
    torch.save(content, hit.path, _use_new_zipfile_serialization=False)


def compressed(hit: Hit) -> None:
    """Packed again by a program that compresses: as gzip, or within the zip."""
    if hit.rng.random() < 0.3:
        hit.write(gzip.compress(hit.data))
        return
    with zipfile.ZipFile(hit.path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(hit.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            archive.writestr(name, data)


def repacked(hit: Hit) -> None:
    """A zip of the same members that a program wrote which aligns nothing."""
    with zipfile.ZipFile(hit.path) as archive:
        held = [(name, archive.read(name)) for name in archive.namelist()]
    hit.rng.shuffle(held)
    with zipfile.ZipFile(hit.path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in held:
            archive.writestr(name, data)


def within(member: str) -> Damage:
    """One bit of a member of the zip."""

    def damage(hit: Hit) -> None:
        with zipfile.ZipFile(hit.path) as archive:
            (info,) = [info for info in archive.infolist() if info.filename.endswith(member)]
        data = bytearray(hit.data)
        name, extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
        start = info.header_offset + 30 + name + extra
        data[start + hit.rng.randrange(info.file_size)] ^= 1 << hit.rng.randrange(8)
        hit.write(bytes(data))

    return damage


def directory(hit: Hit) -> None:
    """One bit of the zip's directory."""
    with zipfile.ZipFile(hit.path) as archive:
        start = archive.start_dir
    flip(start / len(hit.data))(hit)


NO_NUMBERS = (math.nan, math.inf, -math.inf)
TENSORS: dict[str, Damage] = {
    "bit flipped in the tensor": within("/data/0"),
    "bit flipped in the pickle": within("/data.pkl"),
    "bit flipped in the directory": directory,
    "bit flipped in the header": flip(0.0, 0.0005),
    "NaN or infinity": resaved(put(NO_NUMBERS)),
    "NaN or infinity, sealed": resaved(put(NO_NUMBERS), sealed=True),
    "the next number": resaved(next_value),
    "zeros": resaved(zeros),
    "key lost": resaved(lose_key),
    "key renamed": resaved(rename_key),
    "meta edited": resaved(edit_meta),
    "meta edited, sealed": resaved(edit_meta, sealed=True),
    "cast": resaved(half),
    "cast, sealed": resaved(half, sealed=True),
    "cast and said so, sealed": resaved(half_and_says_so, sealed=True),
    "turned": resaved(turned),
    "cut, sealed": resaved(cut, sealed=True),
    "foreign content": foreign,
    "PyTorch's older form": legacy,
    "compressed": compressed,
    "packed anew": repacked,
}
