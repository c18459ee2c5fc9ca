"""Files that a running process reads or has just written: locks that die with it.

A shared lock on the file itself says that it is in use; who wants to remove it takes the exclusive
one first. Nothing has to be cleaned up after a killed process, and a folder need not be writable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.errors import UserError


class Pins:
    """Which chunks this process keeps from being removed, each by a lock on its file."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._wanted: Counter[str] = Counter()
        self._held: dict[str, int] = {}

    def want(self, keys: Iterable[str]) -> None:
        """From now on these are held, as soon as their files are there."""
        with self._guard:
            self._wanted.update(keys)

    def leave(self, keys: Iterable[str]) -> None:
        """Undo one :meth:`want`."""
        with self._guard:
            self._wanted.subtract(keys)
            self._wanted = +self._wanted
            for key in [key for key in self._held if key not in self._wanted]:
                os.close(self._held.pop(key))

    def hold(self, key: str, path: Path) -> None:
        """Lock the file if its key is wanted and it is there; else do nothing."""
        with self._guard:
            if key not in self._wanted or key in self._held:
                return
            with contextlib.suppress(OSError):  # why is told when the file is read
                file = _opened(path)
                fcntl.flock(file, fcntl.LOCK_SH)
                if _is_at(file, path):
                    self._held[key] = file
                else:  # removed, or replaced, between opening and locking
                    os.close(file)
                    self.hold(key, path)

    def replaced(self, key: str, path: Path) -> None:
        """A file was written anew: what was locked is no longer at its place."""
        with self._guard:
            if key in self._held and not _is_at(self._held[key], path):
                os.close(self._held.pop(key))
            self.hold(key, path)


def _opened(path: Path) -> int:
    """An open file; of those that a process may have, as many as the system allows are taken.

    Raises
    ------
    UserError : there may be no more.
    """
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE:
            raise
        if soft >= hard:
            raise UserError(
                f"an item needs more than the {soft} open files that a process may have here; "
                "raise the limit (ulimit -n), or set a larger CHUNK_SIZE"
            ) from None
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return os.open(path, os.O_RDONLY)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that lies at ``path``."""
    found = os.fstat(file)
    try:
        there = path.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino)


def remove_unused(path: Path, used: int | None = None) -> bool:
    """Remove a file unless somebody holds it, or has used it since ``used`` (nanoseconds).

    Returns
    -------
    Whether it is gone.

    Raises
    ------
    OSError : the folder does not allow it.
    """
    with _alone(path) as ours:
        if ours is None:
            return True
        if not ours or (used is not None and path.stat().st_atime_ns > used):
            return False
        path.unlink()
        return True


def is_unused(path: Path) -> bool:
    """Whether the file is there and nobody holds it."""
    with _alone(path) as ours:
        return ours is True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool | None]:
    """Hold the file so that nobody else does; yields whether that is so, None where it is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except BlockingIOError:
            ours = False
        yield ours if _is_at(file, path) else None
    finally:
        os.close(file)
