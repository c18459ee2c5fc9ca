"""Chunks in a folder of this machine, or of several that share it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.atomic import disk_errors, sync_folder, writing
from models.chunks.file import ChunkFile
from models.chunks.format import encode
from models.chunks.index import Chunk
from models.chunks.names import key_of, name_of
from models.chunks.pins import Pins, is_unused, remove_unused
from models.chunks.troubles import Damaged, Missing, reading

TEMPORARY = ".*.tmp"
DEAD_AFTER = 60.0  # seconds: until then a file without a lock may be one that was just opened


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
        return self.root / name_of(key)

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
        lock, known = -1, path.parent.is_dir()
        try:
            with writing(path) as file:
                lock = os.dup(file.fileno())  # the lock lasts as long as any descriptor of the file
                fcntl.flock(lock, fcntl.LOCK_SH)
                yield file
            sync_folder(path.parent)
            if not known:
                sync_folder(self.root)
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

    def chunks(self) -> Iterator[Chunk]:
        """All chunks that are there, in any order; their sizes and times as the disk has them.

        Raises
        ------
        Forbidden, Unreachable : a folder cannot be listed.
        """
        for entry in self._entries():
            key = key_of(entry.name)
            if key and entry.path == str(self.path(key)):
                with reading(Path(entry.path)), contextlib.suppress(FileNotFoundError):
                    found = _file(entry)
                    if found:
                        yield Chunk(key, found.st_size, found.st_mtime_ns, found.st_atime_ns)

    def check(self, key: str) -> int:
        """Look at a chunk's bytes, without noting a use; returns how many they are."""
        file = ChunkFile(self.path(key), key)
        file.verify()
        return file.nbytes

    def tidy(self, dry: bool = False) -> int:
        """Remove temporary files of processes that died while they wrote; returns how many."""
        found = []
        for path in self._temporaries():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > DEAD_AFTER:
                    found.append(path)
        with disk_errors(self.root):
            return sum(is_unused(path) if dry else remove_unused(path) for path in found)

    def _temporaries(self) -> Iterator[Path]:
        """Files that were not given their names."""
        yield from self.root.glob(TEMPORARY)
        for entry in self._entries():
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                yield Path(entry.path)

    def remove(self, chunk: Chunk) -> bool:
        """Remove a chunk unless it is pinned or was used since ``chunk`` was looked at.

        Returns
        -------
        Whether it is gone.

        Raises
        ------
        UserError : the folder may not be written.
        """
        path = self.path(chunk.key)
        with disk_errors(path):
            return remove_unused(path, chunk.used)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        """What lies in the folders ``<aa>``."""
        try:
            folders = [entry.path for entry in os.scandir(self.root) if len(entry.name) == 2]
        except FileNotFoundError:
            return
        for folder in folders:
            with reading(Path(folder)), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from os.scandir(folder)


def _file(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is known of a file; None for anything else, as a folder or a link to itself."""
    try:
        found = entry.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    return found if stat.S_ISREG(found.st_mode) else None


def touch(path: Path) -> None:
    """Note that a file was used now, where that may be written; its content keeps its time."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
