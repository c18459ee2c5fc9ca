"""An item is built by one process at a time, also where several machines share its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from models.atomic import disk_errors

LOCKS = ".locks"


@contextlib.contextmanager
def item_lock(folder: Path) -> Iterator[bool]:
    """Take an item's lock, or learn at once that somebody else holds it; yields whether it is ours.

    A dead process holds none. The lock files are empty and lie in ``.locks`` beside the items'
    folders, where they stay: removed, one could be locked by two who opened it before and after.

    Raises
    ------
    UserError : the folder cannot be written.
    """
    path = folder.parent / LOCKS / f"{folder.name}.lock"
    lock = FileLock(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()
