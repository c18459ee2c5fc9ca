"""Whether a file's pages are in memory: a cold read is one only if they are not."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path


def resident_share(path: Path) -> float | None:
    """Share of the file's pages that the system holds in memory; None where it cannot be told.

    Asked by mincore(2), which reads nothing and so changes nothing.
    """
    if sys.platform != "linux" or not path.is_file():
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        count = -(-len(pages) // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * count)()
        anchor = ctypes.c_char.from_buffer(pages)
        address, size = ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(len(pages))
        failed = ctypes.CDLL(None).mincore(address, size, flags)
        del anchor  # it would keep the mapping from being closed
    return None if failed else sum(flag & 1 for flag in flags) / count
