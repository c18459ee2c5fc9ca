"""One thread's computations on one core, whatever the others may use."""

from __future__ import annotations

import contextlib
import ctypes

import torch

# PyTorch's own runtime, by the name under which it is loaded already.
_RUNTIMES = ("libgomp.so.1", "libomp.dylib", "libiomp5.so")


def keep_to_one_core() -> bool:
    """Let what this thread computes run in it alone; whether that could be said.

    ``torch.set_num_threads`` would say it of all threads. OpenMP keeps the number by thread.
    """
    torch.get_num_threads()  # the first time in a thread it sets the number that all have
    for name in _RUNTIMES:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(name).omp_set_num_threads(1)
            return torch.get_num_threads() == 1
    return False
