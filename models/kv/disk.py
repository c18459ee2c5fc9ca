"""Reading a file by position into memory that is there already; and a disk made slow on purpose."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor

Buffers = Sequence[memoryview]
_AT_ONCE = 512  # buffers of one call; systems take 1024


class Disk:
    """Files as the system reads them."""

    def begin(self) -> None:
        """A measured reading begins: nothing was asked of the disk so far."""

    def ahead(self, file: int, offset: int, nbytes: int) -> None:
        """These bytes will be read soon; advice, which a system need not take."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(file, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def read(self, file: int, buffers: Buffers, offset: int) -> None:
        """Fill the buffers, one behind the other, with what lies at ``offset``.

        Raises
        ------
        EOFError : the file ends before.
        OSError : the system cannot read it.
        """
        left = [buffer for buffer in buffers if len(buffer)]
        while left:
            done = os.preadv(file, left[:_AT_ONCE], offset)
            if not done:
                raise EOFError("the file ends early")
            offset += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]


class SlowDisk(Disk):
    """A disk that gives so many bytes a second and no more, for measurements.

    It works ahead of who reads as a system does: what they do not ask for yet, it has ready, up to
    ``window`` bytes, once they have asked at all.
    """

    def __init__(self, rate: float, window: int = 8 << 20) -> None:
        self.rate = rate
        self.window = window
        self.begin()

    def begin(self) -> None:
        self._taken = self._ready = 0.0  # bytes
        self._at: float | None = None  # when that many were ready

    def read(self, file: int, buffers: Buffers, offset: int) -> None:
        super().read(file, buffers, offset)
        now = time.perf_counter()
        ahead = (now - (now if self._at is None else self._at)) * self.rate
        self._ready = min(self._ready + ahead, self._taken + self.window)
        self._taken += sum(map(len, buffers))
        wait = max(0.0, self._taken - self._ready) / self.rate
        self._ready, self._at = max(self._ready, self._taken), now + wait
        time.sleep(wait)


def bytes_of(tensor: Tensor) -> list[memoryview]:
    """The memory of a tensor on the CPU, in the fewest pieces that lie in one, to be read into.

    Parameters
    ----------
    tensor : its last dimension is contiguous.
    """
    if tensor.is_contiguous():
        return [tensor.view(-1).view(torch.uint8).numpy().data] if tensor.numel() else []
    return [piece for part in tensor for piece in bytes_of(part)]
