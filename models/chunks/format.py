"""How a chunk lies in its file: safetensors, its tensors in order, its digests in the header.

The library reads these files (``safe_open``, ``load_file``). It would write them ordered by dtype,
which tears layers of mixed dtypes apart: the header is put together here, so that a layer's parts
lie side by side, in the order in which they were given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from blake3 import blake3
from torch import Tensor

from models.sealed import parse

VERSION = "chunk 1"
PAD = (
    "pad."  # names of fillers: the library wants no hole between tensors, and views want alignment
)
ALIGN = 8
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Part(NamedTuple):
    """Where one tensor lies: ``offset`` counts bytes from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes
    ----------
    payload : BLAKE3 of all bytes behind the header, which begin at ``start`` and end at ``end``.
    """

    key: str
    meta: dict[str, Any]
    parts: dict[str, Part]
    payload: str
    start: int
    end: int


def encode(
    key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[bytes, list[memoryview]]:
    """The bytes of a file: its header, and its payload in pieces that share the tensors' memory.

    Parameters
    ----------
    tensors : contiguous, on the CPU, in the order in which they are to lie.
    meta : anything that JSON holds.

    Raises
    ------
    ValueError : no tensors, a name that is reserved, a dtype that safetensors lacks, or a meta that
        is no JSON.
    """
    layout: dict[str, Any] = {}
    pieces: list[memoryview] = []
    at = 0

    def add(name: str, code: str, shape: list[int], data: memoryview) -> None:
        nonlocal at
        layout[name] = {"dtype": code, "shape": shape, "data_offsets": [at, at + len(data)]}
        pieces.append(data)
        at += len(data)

    for name, tensor in tensors.items():
        if name.startswith(PAD) or name == "__metadata__" or tensor.dtype not in CODES:
            raise ValueError(f"{name}, {tensor.dtype}: cannot be stored")
        if gap := -at % ALIGN:
            add(f"{PAD}{at}", "U8", [gap], memoryview(bytes(gap)))
        add(name, CODES[tensor.dtype], list(tensor.shape), _bytes_of(tensor))
    if not layout:
        raise ValueError("a chunk without tensors")
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    said = {
        "kvfuse": VERSION,
        "key": key,
        "meta": json.dumps(meta, allow_nan=False),
        "payload": hasher.hexdigest(),
    }
    said["header"] = _digest(said, layout)
    text = json.dumps({"__metadata__": said, **layout}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    return len(text).to_bytes(8, "little") + text, pieces


def decode(head: bytes, size: int) -> Header:
    """A header from the first bytes of a file of ``size`` bytes: those that :func:`length` names.

    Raises
    ------
    ValueError : it is none of ours, changed since it was written, or of a file of another size.
    """
    try:
        found = parse(head[8:])
        said = found.pop("__metadata__")
        if said["kvfuse"] != VERSION:
            raise ValueError(f"it is of version {said['kvfuse']!r:.40}")
        if said["header"] != _digest(said, found):
            raise ValueError("its header is not what was written")
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError("it has no header of a chunk") from None
    # From here on the header is what was written.
    start = len(head)
    parts = {name: _part(entry, start) for name, entry in found.items()}
    end = max(part.offset + part.nbytes for part in parts.values())
    if end != size:
        raise ValueError(f"it has {size} bytes and was written with {end}")
    ours = {name: part for name, part in parts.items() if not name.startswith(PAD)}
    return Header(said["key"], parse(said["meta"]), ours, said["payload"], start, end)


def length(first: bytes, size: int) -> int:
    """Bytes of a header, by the first 8 of a file of ``size`` bytes.

    Raises
    ------
    ValueError : no header fits into the file.
    """
    said = 8 + int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 8 < said <= size:
        raise ValueError("it has no header of a chunk")
    return said


def _part(entry: dict[str, Any], start: int) -> Part:
    begin, end = entry["data_offsets"]
    return Part(DTYPES[entry["dtype"]], tuple(entry["shape"]), start + begin, end - begin)


def _digest(said: Mapping[str, str], layout: Mapping[str, Any]) -> str:
    """BLAKE3 over everything that a header says but this digest."""
    rest = {name: text for name, text in said.items() if name != "header"}
    text = json.dumps([rest, list(layout.items())], sort_keys=True)
    return str(blake3(text.encode()).hexdigest())


def _bytes_of(tensor: Tensor) -> memoryview:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError("tensors are stored from the CPU, contiguous")
    return tensor.detach().view(-1).view(torch.uint8).numpy().data
