"""One item's ``kvs.pt`` as a source of layers: read by position, past the mapping that names it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from models.kv.disk import Disk, bytes_of

HEADER = 30  # bytes in front of an archive's entry; lengths of its name and extra field end them
GLANCE = 4096  # bytes that must be the same by both ways


class WholeFile:
    """Layers of a tensor ``[2, L, H_kv, N, D]`` that lies in one piece in a file of ``torch.save``.

    On a CPU they are read into the cache itself. On CUDA they come through ``memory``, which
    holds all of them then.

    Parameters
    ----------
    mapping : gives the tensor, backed by the file, or says what is wrong with it.
    refusals : puts what reading may raise into words.
    pinned : whether layers come through pinned memory.

    Attributes
    ----------
    memory : all layers, ready when this is closed: pinned memory, or the file's pages.
    """

    def __init__(
        self,
        path: Path,
        mapping: Callable[[], Tensor],
        disk: Disk,
        refusals: Callable[[], AbstractContextManager[None]],
        pinned: bool = False,
    ) -> None:
        self.disk = disk
        self._refusals = refusals
        with refusals(), contextlib.ExitStack() as undo:
            self._file = os.open(path, os.O_RDONLY)
            undo.callback(os.close, self._file)
            mapped = mapping()
            self._offset = offset_in(path, mapped, self._file)
            undo.pop_all()
        self.memory = torch.empty_like(mapped, pin_memory=True) if pinned else mapped
        self._pinned = self.memory if pinned else None
        self.layers, self.nbytes = mapped.shape[1], mapped.nbytes
        disk.begin()

    def read(self, layer: int, out: Tensor) -> None:
        """Keys and values straight to where they belong; the next layer is asked for before."""
        into = out if self._pinned is None else self._pinned[:, layer]
        with self._refusals():
            if layer + 1 < self.layers:
                for kind in range(2):
                    self.disk.ahead(self._file, *self._span(kind, layer + 1))
            for kind in range(2):
                self.disk.read(self._file, bytes_of(into[kind]), self._span(kind, layer)[0])

    def place(self, layer: int, what: Any, out: Tensor) -> None:
        """Nothing on a CPU: they are there."""
        if self._pinned is not None:
            for kind in range(2):  # each lies in one piece; both together would be gathered first
                out[kind].copy_(self._pinned[kind, layer], non_blocking=True)

    def close(self) -> None:
        """Let go of the file; what is mapped is ready from here on, each of its pages touched."""
        os.close(self._file)
        if self._pinned is None:
            self.memory.view(-1).view(torch.uint8)[:: os.sysconf("SC_PAGESIZE")].sum()

    def _span(self, kind: int, layer: int) -> tuple[int, int]:
        nbytes = self.nbytes // 2 // self.layers
        return self._offset + (kind * self.layers + layer) * nbytes, nbytes


def offset_in(path: Path, mapped: Tensor, file: int) -> int:
    """Where the only tensor of a file of ``torch.save`` begins: a zip archive, nothing compressed.

    Parameters
    ----------
    file : opened before ``mapped`` was.

    Raises
    ------
    ValueError : the path names another file by now, or the tensor does not lie there.
    """
    with ZipFile(path) as archive:
        (found,) = (each for each in archive.infolist() if each.filename.endswith("/data/0"))
    header = os.pread(file, HEADER, found.header_offset)
    offset = found.header_offset + HEADER + sum(struct.unpack("<HH", header[-4:]))
    same = found.compress_size == found.file_size == mapped.nbytes
    seen = b"".join(bytes_of(mapped.view(-1).view(torch.uint8)[:GLANCE]))
    if not same or os.pread(file, len(seen), offset) != seen:
        raise ValueError("its tensor lies elsewhere")
    if not os.path.samestat(os.fstat(file), os.stat(path)):
        raise ValueError("replaced meanwhile")
    return offset
