"""Files that are complete or absent, and disk troubles told in one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from models.errors import UserError


class _Target(io.FileIO):
    """A file that keeps the system's refusal to write it, whatever a library makes of the error."""

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refusal = error
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Write ``path`` through a temporary file in its folder: flushed, then renamed.

    A crash or an error leaves the old file, or none, and never half of one. What the caller's block
    raises of its own stays as it is.

    Raises
    ------
    UserError : the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(_temporary_name(path.name))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        target = _Target(temporary, "wb")
    try:
        with io.BufferedWriter(target) as file:
            yield file
            file.flush()
            with disk_errors(path):
                os.fsync(file.fileno())
        with disk_errors(path):
            temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if target.refusal and isinstance(error, Exception):
            raise _told(path, target.refusal) from error
        raise


def _temporary_name(name: str) -> str:
    """Of this thread alone: on two machines with one folder, pids may be equal."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last: after a power cut a rename may be lost without it.

    Not every file system takes it, and none that refuses needs it.
    """
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into one line; for a block that only writes ``path``."""
    try:
        yield
    except OSError as error:
        raise _told(path, error) from error


def _told(path: Path, refusal: OSError) -> UserError:
    full = refusal.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full; make room there, or" if full else f"{refusal.strerror or refusal};"
    return UserError(f"cannot write {path}: {reason} name another folder (INPUTS=, KVS=, OUTPUTS=)")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed runs; only for who knows that nobody writes there."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
