"""A prompt's KVs from its chunks' files, layer by layer: into memory, decoded into the cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models import codecs
from models.chunks.file import ChunkFile
from models.chunks.format import Part
from models.chunks.troubles import damaged, reading
from models.codecs import ROWS, BaseCodec
from models.kv.disk import Buffers, Disk, bytes_of

ALIGN = 64
KINDS = "kv"  # keys and values, as tensors' names have them
OPEN = 256  # files are kept open where there are no more: a system allows a process some thousand
Parts = tuple[dict[str, Part], dict[str, Part]]  # of keys and of values, by the codec's names


class Chunk(NamedTuple):
    """A chunk's file, the codec of its rows, and where these belong in the prompt."""

    file: ChunkFile
    codec: BaseCodec
    rows: slice


class _Stretch(NamedTuple):
    """One layer of one chunk: so many bytes from ``offset`` in its file, which go to ``at``."""

    offset: int
    at: int
    nbytes: int
    parts: Parts


class ChunkLayers:
    """Chunks side by side, in a buffer that holds all of them, as they lie on disk, when closed.

    On a CPU rows that lie as they are go straight to the cache, and to the buffer behind
    everything that is timed.

    Attributes
    ----------
    layers : how many. nbytes : of the layers' tensors, as they lie on disk.
    plain : whether all rows lie as they are.
    """

    def __init__(
        self, chunks: Sequence[Chunk], n_layers: int, disk: Disk, pinned: bool = False
    ) -> None:
        """
        Parameters
        ----------
        pinned : the buffer is to be copied to a GPU.

        Raises
        ------
        Damaged : a file lacks a layer.
        """
        self.layers, self.nbytes, self.disk = n_layers, 0, disk
        self._chunks = chunks
        plain = [codecs.spec_of(chunk.codec) == codecs.NONE for chunk in chunks]
        self.plain = all(plain)
        self._direct = [not pinned and as_it_is for as_it_is in plain]
        found = [_layers_of(chunk.file, n_layers) for chunk in chunks]
        self._stretches: list[list[_Stretch]] = []
        size = 0
        for layer in range(n_layers):
            self._stretches.append([])
            for of_chunk in found:
                held = [part for kind in of_chunk[layer] for part in kind.values()]
                begin = min(part.offset for part in held)
                nbytes = max(part.offset + part.nbytes for part in held) - begin
                self._stretches[-1].append(_Stretch(begin, size, nbytes, of_chunk[layer]))
                self.nbytes += nbytes
                size += -(-nbytes // ALIGN) * ALIGN
        self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self._bytes = self._buffer.numpy().data
        self._files: dict[int, int] = {}
        self._read = 0
        disk.begin()

    def read(self, layer: int, out: Tensor) -> None:
        """One layer's bytes: rows that lie as they are into ``out``, all others into memory."""
        for index, (chunk, stretch) in enumerate(
            zip(self._chunks, self._stretches[layer], strict=True)
        ):
            with self._opened(index) as file:
                if layer + 1 < self.layers:
                    following = self._stretches[layer + 1][index]
                    self.disk.ahead(file, following.offset, following.nbytes)
                if self._direct[index]:
                    for kind, parts in enumerate(stretch.parts):
                        rows = out[kind, :, chunk.rows]
                        if parts[ROWS].nbytes != rows.nbytes:
                            raise damaged(chunk.file.path, "its rows have another shape")
                        self._fill(chunk, file, bytes_of(rows), parts[ROWS].offset)
                else:
                    self._fill(chunk, file, self._room(stretch), stretch.offset)
        self._read = layer + 1

    def place(self, layer: int, what: Any, out: Tensor) -> None:
        """Decode what is not there yet into the cache's ``[2, H_kv, N, D]``."""
        layers = zip(self._chunks, self._stretches[layer], self._direct, strict=True)
        for chunk, stretch, direct in layers:
            if not direct:
                self._decode(chunk, stretch, out)

    def close(self) -> None:
        """Fill the buffer with what went past it, where all was read, and let go of the files."""
        try:
            if self._read == self.layers:
                for index, chunk in enumerate(self._chunks):
                    if self._direct[index]:
                        with self._opened(index) as file:
                            for of_layer in self._stretches:
                                stretch = of_layer[index]
                                self._fill(chunk, file, self._room(stretch), stretch.offset)
        finally:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def held(self, layer: int, out: Tensor) -> None:
        """A layer from the buffer, once it is full, into the cache."""
        for chunk, stretch in zip(self._chunks, self._stretches[layer], strict=True):
            self._decode(chunk, stretch, out)

    def _decode(self, chunk: Chunk, stretch: _Stretch, out: Tensor) -> None:
        for kind, parts in enumerate(stretch.parts):
            tensors = {
                name: self._tensor(stretch, part).to(out.device, non_blocking=True)
                for name, part in parts.items()
            }
            chunk.codec.decode(kind, tensors, out[kind, :, chunk.rows])

    def _tensor(self, stretch: _Stretch, part: Part) -> Tensor:
        begin = stretch.at + part.offset - stretch.offset
        return self._buffer[begin : begin + part.nbytes].view(part.dtype).view(part.shape)

    def _room(self, stretch: _Stretch) -> Buffers:
        return [self._bytes[stretch.at : stretch.at + stretch.nbytes]]

    def _fill(self, chunk: Chunk, file: int, buffers: Buffers, offset: int) -> None:
        with reading(chunk.file.path):
            try:
                self.disk.read(file, buffers, offset)
            except EOFError:
                raise damaged(chunk.file.path, "it is shorter than it was") from None

    @contextlib.contextmanager
    def _opened(self, index: int) -> Iterator[int]:
        """A chunk's file, which stays open for its other layers where there are not too many."""
        path = self._chunks[index].file.path
        file = self._files.get(index)
        if file is None:
            with reading(path):
                file = os.open(path, os.O_RDONLY)
        if len(self._files) < OPEN:
            self._files[index] = file
        try:
            yield file
        finally:
            if index not in self._files:
                os.close(file)


class InMemory:
    """Chunks that were read before: nothing is left but to decode them."""

    def __init__(self, chunks: ChunkLayers) -> None:
        self.chunks = chunks
        self.layers, self.nbytes = chunks.layers, chunks.nbytes

    def read(self, layer: int, out: Tensor) -> None:
        """It was."""

    def place(self, layer: int, what: Any, out: Tensor) -> None:
        """Decode a layer."""
        self.chunks.held(layer, out)

    def close(self) -> None:
        """Nothing is open."""


def _layers_of(file: ChunkFile, n_layers: int) -> list[Parts]:
    """A file's tensors by layer, kind and the codec's name of the part."""
    found: list[Parts] = [({}, {}) for _ in range(n_layers)]
    for name in file.names:
        try:
            layer, kind, part = name.split(".", 2)
            found[int(layer)][KINDS.index(kind)][part] = file.layout(name)
        except (ValueError, IndexError):
            raise damaged(file.path, f"it holds {name}") from None
    if not all(keys and values for keys, values in found):
        raise damaged(file.path, "it lacks a layer")
    return found
