"""The one place that touches the device clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch

PARTS = ("load", "decode_kv", "transfer", "rotate", "select", "recompute", "correct", "head")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Splits one TTFT into its parts, in milliseconds, with the device synchronised at every cut.

    The total is measured by itself, not summed, so that time between the parts cannot hide.

    Parameters
    ----------
    by_events : on CUDA, cuts are events in the computing stream and the host does not wait at them;
        the parts are known after :meth:`total`.
    """

    def __init__(self, device: torch.device, by_events: bool = False) -> None:
        self.device = device
        self.by_events = by_events and device.type == "cuda"
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._cuts: list[tuple[str, torch.cuda.Event]] = []
        self._charged = 0.0  # ms, aside so far
        synchronize(device)
        self._start = self._last = time.perf_counter()
        if self.by_events:
            self._cut("")

    def lap(self, part: str) -> None:
        """Charge the time since the last cut to ``part``.

        On CUDA only the computing stream is waited for: layers that still come in by another are
        charged to the part that needs them.
        """
        if self.by_events:
            self._cut(part)
            return
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        else:
            synchronize(self.device)
        now = time.perf_counter()
        for aside, start, end in self._events:
            self.charge(aside, start.elapsed_time(end))
        self._events.clear()
        self.parts[part] += (now - self._last) * 1e3
        self._last = now

    @contextmanager
    def aside(self, part: str) -> Iterator[None]:
        """Charge to ``part`` what is done in here, and not to the part whose cut comes next.

        On CUDA by events in the computing stream, looked at when that cut has waited: to wait here
        would stop the device once a layer.
        """
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(torch.cuda.current_stream(self.device))
            yield
            end.record(torch.cuda.current_stream(self.device))
            self._events.append((part, start, end))
        else:
            synchronize(self.device)
            begun, before = time.perf_counter(), self._charged
            yield
            synchronize(self.device)
            within = self._charged - before  # what was aside in here is not this part's
            self.charge(part, (time.perf_counter() - begun) * 1e3 - within)

    def charge(self, part: str, ms: float) -> None:
        """Charge time since the last cut to ``part``, and not to the part whose cut comes next."""
        self.parts[part] += ms
        self._last += ms / 1e3
        self._charged += ms

    def _cut(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        self._cuts.append((part, event))

    def total(self) -> float:
        """Milliseconds from the start until now, device synchronised."""
        synchronize(self.device)
        elapsed = (time.perf_counter() - self._start) * 1e3
        for (_, before), (part, event) in pairwise(self._cuts):
            self.parts[part] += before.elapsed_time(event)
        for (aside, start, end), part in self._within():
            self.parts[aside] += (ms := start.elapsed_time(end))
            self.parts[part] -= ms
        self._cuts = self._cuts[-1:]
        return elapsed

    def _within(self) -> Iterator[tuple[tuple[str, torch.cuda.Event, torch.cuda.Event], str]]:
        """What was done aside, with the part in which it lies: the first cut that comes after."""
        if not self.by_events:
            return
        for aside in self._events:
            later = (part for part, cut in self._cuts[1:] if aside[2].elapsed_time(cut) >= 0)
            yield aside, next(later, "recompute")
        self._events.clear()
