"""One item on disk: complete or absent, never of something else; read cold or from memory."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.kv.disk import Disk
from models.kv.format import KVS, SCORES, describe, file_name, mismatch, write
from models.kv.overlap import ReadAhead
from models.kv.pagecache import advise, have_left
from models.kv.reader import condition, is_complete, read, refusals
from models.kv.transfer import LayerStream
from models.kv.whole import WholeFile
from models.modules import Modules
from models.timing import Stopwatch

__all__ = [
    "KVS",
    "SCORES",
    "StoredItem",
    "condition",
    "describe",
    "is_complete",
    "item_folder",
    "kv_bytes",
    "mismatch",
    "read",
    "write",
]


@dataclass
class StoredItem:
    """Reads one item's KVs into the engine's cache, cold (from disk) or ready (from memory).

    ``cold`` reads the file anew, layer by layer; :meth:`forget` asks the system to drop its pages
    before. ``ready`` copies from memory that already holds it: the pages of a mapping, or pinned
    memory for a GPU. Scores are read when they are first asked for, and remembered until
    :meth:`forget`.

    Attributes
    ----------
    overlap : whether a thread reads layers while earlier ones compute.
    disk : what reads them.
    ahead : from memory to a GPU, layers are asked for so many before they are needed; None: all of
        them at once.
    stream : the latest cold reading, until :meth:`forget`.
    memory : the KVs ``[2, L, H_kv, N, D]``, from the first cold reading until :meth:`forget`.
    """

    folder: Path
    expected: dict[str, Any]
    remedy: str
    overlap: bool = True
    ahead: int | None = None
    disk: Disk = field(default_factory=Disk, repr=False)
    stream: ReadAhead | None = field(default=None, repr=False)
    memory: Tensor | None = field(default=None, repr=False)
    _scores: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def check(self, scores: Collection[str] = ()) -> None:
        """Raise what reading the KVs and these scores would raise, and verify their bytes.

        A file is read whole for that, once a process and change; timed reads never do it.
        """
        for kind in ("kv", *scores):
            self._read(kind, verify=True)

    @property
    def nbytes(self) -> int:
        """Of the KVs: what lies around them in their file depends on who wrote it."""
        dtype: torch.dtype = getattr(torch, self.expected["dtype"])
        return math.prod(self.expected["shape"]) * dtype.itemsize

    def held(self) -> AbstractContextManager[None]:
        """Nobody removes an item's files but by hand."""
        return nullcontext()

    def condition(self, scores: Collection[str] = ()) -> str | None:
        """Why it must be built, see :func:`models.kv.reader.condition`; None where it need not."""
        return condition(self.folder, self.expected, scores)

    def scores(self, name: str) -> Tensor:
        """``surprisal`` or ``sinks``, float32 ``[N]``."""
        if name not in self._scores:
            self._scores[name] = self._read(name).clone()
        return self._scores[name]

    def kv(self) -> Tensor:
        """``[2, L, H_kv, N, D]`` as they lie in the file, backed by it."""
        return self._read("kv")

    def _read(self, kind: str, verify: bool = False) -> Tensor:
        return read(self.folder / file_name(kind), self.expected, self.remedy, kind, verify)

    def forget(self) -> bool | None:
        """Drop the files from memory and from the page cache.

        Returns
        -------
        Whether the KVs have really left it: advice that a system takes need not be followed. None
        where nobody can tell.
        """
        self.memory = self.stream = None
        self._scores.clear()
        for kind in ("kv", *SCORES):
            advise(self.folder / file_name(kind), "POSIX_FADV_DONTNEED")
        return have_left([self.folder / KVS])

    def cold(self, watch: Stopwatch, target: Tensor) -> ReadAhead:
        """Disk → ``target`` ``[2, L, H_kv, N, D]``; on CUDA by way of pinned memory.

        The stream that is returned brings layer by layer. When it is drained, the memory is ready.
        """
        path, cuda = self.folder / KVS, target.device.type == "cuda"
        refused = partial(refusals, path, self.remedy)
        source = WholeFile(path, partial(self._read, "kv"), self.disk, refused, cuda)
        self.memory = source.memory
        watch.lap("load")
        self.stream = ReadAhead(source, target, watch, threaded=self.overlap).start()
        return self.stream

    def ready(self, watch: Stopwatch, target: Tensor) -> LayerStream | None:
        """Memory → ``target``; :meth:`cold` comes first and leaves the memory behind.

        On CUDA the layers follow each other on a second stream, which is returned.
        """
        assert self.memory is not None, "nothing is in memory yet"
        if target.device.type == "cuda":
            stream = LayerStream(self.memory, target, ahead=self.ahead).start()
            watch.lap("transfer")
            return stream
        target.copy_(self.memory)
        watch.lap("transfer")
        return None


def item_folder(root: str | Path, model: str, dataset: str, item_id: str) -> Path:
    """Where one item's files lie."""
    return Path(root) / model / dataset / f"item_{item_id}"


def kv_bytes(modules: Modules, tokens: int) -> int:
    """Bytes of ``kvs.pt``'s tensor for ``tokens`` tokens."""
    return math.prod(modules.kv_shape(tokens)) * modules.dtype.itemsize
