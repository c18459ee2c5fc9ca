"""Freed memory kept at hand: on a CPU, fresh pages cost more than what is computed in them."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MAPPED = 1 << 30  # bytes; every activation of a layer is smaller
_LARGEST_KEPT = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of large tensors instead of returning it to the system.

    A layer's activations are megabytes, which glibc by default maps and unmaps for every operation:
    the system clears each page anew. Up to 2 GB stay with the process instead, from now on: what
    is free already, from loading weights, goes back first. Does nothing, and returns False, where
    the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    give_back()
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST_MAPPED) and mallopt(_TRIM_THRESHOLD, _LARGEST_KEPT)
    )


def give_back() -> None:
    """Return what is free now to the system; does nothing where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
