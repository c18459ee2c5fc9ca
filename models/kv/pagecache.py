"""A file's pages in memory: whether they are there, and advice about them.

A cold read is one only if they are not.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

LEFT = 0.01  # a file is out of memory when less than this share of it is there


def resident_share(path: Path) -> float | None:
    """Share of the file's pages that the system holds in memory; None where it cannot be told.

    Asked by mincore(2), which reads nothing and so changes nothing.
    """
    if sys.platform != "linux" or not path.is_file():
        return None
    if path.stat().st_size == 0:  # nothing that could be mapped, or be in memory
        return 0.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        count = -(-len(pages) // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * count)()
        anchor = ctypes.c_char.from_buffer(pages)
        address, size = ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(len(pages))
        failed = ctypes.CDLL(None).mincore(address, size, flags)
        del anchor  # it would keep the mapping from being closed
    return None if failed else sum(flag & 1 for flag in flags) / count


def have_left(paths: Iterable[Path]) -> bool | None:
    """Whether none of the files is in memory any more; None where nobody can tell."""
    shares = [resident_share(path) for path in paths]
    known = [share for share in shares if share is not None]
    return max(known) < LEFT if len(known) == len(shares) else None


def advise(path: Path, advice: str) -> None:
    """Tell the system what will be done with a file's pages, where it takes advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, getattr(os, advice))
