"""Chunks in a folder of this machine, or of several that share it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.atomic import sync_folder, writing
from models.chunks.file import ChunkFile
from models.chunks.format import encode
from models.chunks.pins import Pins
from models.chunks.troubles import Damaged, Missing

SUFFIX = ".safetensors"
_KEY = re.compile(r"[0-9a-f]{64}")


class Folder:
    """Chunk files at ``<root>/<aa>/<key>.safetensors``, complete or absent, never changed.

    A file's time of access says when it was last used: it is set here, whatever the file system
    does by itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pins = Pins()

    def path(self, key: str) -> Path:
        """Where a chunk lies or would lie."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of 64 hex")
        return self.root / key[:2] / f"{key}{SUFFIX}"

    def open(self, key: str, verify: bool = False) -> ChunkFile:
        """The chunk's file; with ``verify`` its payload is looked at too, once a process.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        path = self.path(key)
        self._pins.hold(key, path)
        file = ChunkFile(path, key)
        if verify:
            file.verify()
        touch(path)
        return file

    def holds(self, key: str, verify: bool = False) -> bool:
        """Whether the chunk is there and whole; its payload is looked at with ``verify`` only."""
        try:
            self.open(key, verify)
        except (Missing, Damaged):
            return False
        return True

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> int:
        """Write a chunk unless it is there and whole.

        Returns
        -------
        Bytes written: 0 where it was there.

        Raises
        ------
        UserError : the folder cannot be written, or the disk is full.
        """
        if self.holds(key, verify=True):
            return 0
        head, pieces = encode(key, tensors, meta)
        with self.written(key) as file:
            file.write(head)
            for piece in pieces:
                file.write(piece)
        return len(head) + sum(map(len, pieces))

    @contextlib.contextmanager
    def written(self, key: str) -> Iterator[Any]:
        """A binary file that becomes the chunk's where the block ends well.

        It is locked from its first byte on, so that nobody takes it for a dead process's, and stays
        so where the chunk is pinned.
        """
        path = self.path(key)
        lock = -1
        try:
            with writing(path) as file:
                lock = os.dup(file.fileno())  # the lock lasts as long as any descriptor of the file
                fcntl.flock(lock, fcntl.LOCK_SH)
                yield file
            sync_folder(path.parent)
            sync_folder(self.root)  # its folder may be new
            self._pins.replaced(key, path)
        finally:
            if lock >= 0:
                os.close(lock)

    @contextlib.contextmanager
    def pin(self, keys: Iterable[str]) -> Iterator[None]:
        """Within the block these chunks are not removed by anybody: those that are there, and those
        that are put or fetched meanwhile."""
        keys = list(keys)
        self._pins.want(keys)
        try:
            for key in keys:
                self._pins.hold(key, self.path(key))
            yield
        finally:
            self._pins.leave(keys)


def touch(path: Path) -> None:
    """Note that a file was used now, where that may be written; its content keeps its time."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
