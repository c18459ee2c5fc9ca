"""The one place that touches the device clock."""

from __future__ import annotations

import time

import torch

PARTS = ("load", "transfer", "rotate", "select", "recompute", "head")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Splits one TTFT into its parts, in milliseconds, with the device synchronised at every cut.

    The total is measured by itself, not summed, so that time between the parts cannot hide.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts = dict.fromkeys(PARTS, 0.0)
        synchronize(device)
        self._start = self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Charge the time since the last cut to ``part``.

        On CUDA only the computing stream is waited for: layers that still come in by another are
        charged to the part that needs them.
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        else:
            synchronize(self.device)
        now = time.perf_counter()
        self.parts[part] += (now - self._last) * 1e3
        self._last = now

    def total(self) -> float:
        """Milliseconds from the start until now, device synchronised."""
        synchronize(self.device)
        return (time.perf_counter() - self._start) * 1e3
