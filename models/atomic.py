"""Files that are complete or absent, and disk troubles told in one line."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from models.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Write ``path`` through a temporary file in its folder: flushed, then renamed.

    A crash or an error leaves the old file, or none, and never half of one.

    Raises
    ------
    UserError : the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write ``path`` into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        full = refusal.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full; make room there, or" if full else f"{refusal.strerror};"
        raise UserError(
            f"cannot write {path}: {reason} name another folder (INPUTS=, KVS=, OUTPUTS=)"
        ) from error


def _refusal(error: BaseException) -> OSError | None:
    """The system's own error, also where ``torch.save`` hid it behind a RuntimeError."""
    cause: Any = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed runs left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
