"""A prompt's KVs from its chunks' files, layer by layer: bytes into memory, then into the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.chunks.file import ChunkFile
from models.chunks.format import Part
from models.chunks.troubles import damaged, reading
from models.codecs import BaseCodec

ALIGN = 64
KINDS = "kv"


class Stretch(NamedTuple):
    """One layer of one chunk: so many bytes from ``offset`` in its file, which go to ``at``."""

    offset: int
    at: int
    nbytes: int
    parts: tuple[dict[str, Part], dict[str, Part]]


class _Chunk(NamedTuple):
    file: ChunkFile
    codec: BaseCodec
    rows: slice
    stretches: list[Stretch]


class ChunkLayers:
    """Chunks side by side, all bytes of all layers in one buffer once they were read.

    Attributes
    ----------
    layers : how many. nbytes : of the layers' tensors, as they lie on disk.
    """

    def __init__(
        self,
        files: Sequence[ChunkFile],
        codecs: Sequence[BaseCodec],
        lengths: Sequence[int],
        n_layers: int,
        pinned: bool = False,
    ) -> None:
        """
        Parameters
        ----------
        lengths : tokens of each chunk.
        pinned : the buffer is to be copied to a GPU.

        Raises
        ------
        Damaged : a file lacks a layer.
        """
        self.layers, self.nbytes = n_layers, 0
        self._chunks: list[_Chunk] = []
        by_layer: list[list[Stretch]] = [[] for _ in range(n_layers)]
        found = [_layers_of(file, n_layers) for file in files]
        for layer in range(n_layers):
            for parts in (each[layer] for each in found):
                held = [part for kind in parts for part in kind.values()]
                begin = min(part.offset for part in held)
                nbytes = max(part.offset + part.nbytes for part in held) - begin
                by_layer[layer].append(Stretch(begin, self.nbytes, nbytes, parts))
                self.nbytes += -(-nbytes // ALIGN) * ALIGN
        start = 0
        for index, (file, codec, length) in enumerate(zip(files, codecs, lengths, strict=True)):
            rows = slice(start, start := start + length)
            self._chunks.append(_Chunk(file, codec, rows, [each[index] for each in by_layer]))
        self._buffer = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=pinned)
        self._bytes = memoryview(self._buffer.numpy())

    def read(self, layer: int) -> int:
        """Bring one layer's bytes into memory; gives what :meth:`place` takes."""
        for chunk in self._chunks:
            stretch = chunk.stretches[layer]
            _read(chunk.file, stretch.offset, self._bytes[stretch.at : stretch.at + stretch.nbytes])
        return layer

    def place(self, layer: int, what: int, out: Tensor) -> None:
        """Decode a layer that was read into the cache's ``[2, H_kv, N, D]``."""
        for chunk in self._chunks:
            stretch = chunk.stretches[what]
            for kind, parts in enumerate(stretch.parts):
                tensors = {
                    name: self._tensor(stretch, part).to(out.device, non_blocking=True)
                    for name, part in parts.items()
                }
                chunk.codec.decode(kind, tensors, out[kind, :, chunk.rows])

    def _tensor(self, stretch: Stretch, part: Part) -> Tensor:
        begin = stretch.at + part.offset - stretch.offset
        return self._buffer[begin : begin + part.nbytes].view(part.dtype).view(part.shape)


def _read(file: ChunkFile, offset: int, target: memoryview) -> None:
    """Fill ``target`` from a file, which is opened each time: a prompt may have thousands."""
    with reading(file.path), file.path.open("rb", buffering=0) as raw:
        raw.seek(offset)
        while target:
            count = raw.readinto(target)
            if not count:
                raise damaged(file.path, "it is shorter than it was")
            target = target[count:]


def _layers_of(file: ChunkFile, n_layers: int) -> list[tuple[dict[str, Part], dict[str, Part]]]:
    """A file's tensors by layer, kind and the codec's name of the part."""
    found: list[tuple[dict[str, Part], dict[str, Part]]] = [({}, {}) for _ in range(n_layers)]
    try:
        for name in file.names:
            layer, kind, part = name.split(".", 2)
            found[int(layer)][KINDS.index(kind)][part] = file.layout(name)
    except (ValueError, IndexError):
        raise damaged(file.path, f"it holds {name}") from None
    if not all(keys and values for keys, values in found):
        raise damaged(file.path, "it lacks a layer")
    return found
