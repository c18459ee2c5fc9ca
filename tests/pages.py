"""Pages of files in memory, for tests of cold reads."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.kv.pagecache import resident_share


def need_a_disk(folder: Path) -> None:
    """Skip where files live in memory, as on tmpfs, or the system is silent; a plain file tells."""
    path = folder / "plain"
    path.write_bytes(os.urandom(1 << 20))
    settle(path)
    if resident_share(path) is None or not hasattr(os, "posix_fadvise"):
        pytest.skip("this system does not tell")
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    left = resident_share(path)
    path.unlink()
    if left:
        pytest.skip("the folder is in memory: nothing can be dropped")


def settle(*paths: Path) -> None:
    """Bring files to the disk: pages that wait to be written cannot be dropped."""
    for path in paths:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def read_in(path: Path) -> None:
    path.read_bytes()
    assert resident_share(path) == 1.0


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a file's pages mapped and in use, so that no advice makes the system drop them."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages,
    ):
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start]
        yield
