"""Where an evaluation's seconds go, and how many items an hour that makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARTS = ("prefill", "decode", "follow", "load", "score", "other")


class Ledger:
    """Seconds of one process by part; ``other`` is what no part accounts for.

    prefill: full and fused, with what they read; decode: answers; follow: the full prefill's answer
    under each method; load: files checked, and reads that methods share; score: distances, scores,
    records.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was charged, and begin now."""
        self.seconds = dict.fromkeys(PARTS[:-1], 0.0)
        self.items = 0
        self._start = time.perf_counter()

    @contextmanager
    def charge(self, part: str) -> Iterator[None]:
        """Charge the block to ``part``; blocks do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def throughput(self) -> dict[str, Any]:
        """Items an hour, and seconds an item by part; zeros before the first item is done."""
        wall = time.perf_counter() - self._start
        items = max(self.items, 1)
        parts = {**self.seconds, "other": max(0.0, wall - sum(self.seconds.values()))}
        return {
            "items": self.items,
            "wall_s": wall,
            "items_per_hour": 3600 * self.items / wall if wall else 0.0,
            "seconds_per_item": {name: parts[name] / items for name in PARTS},
        }


def shares(throughput: dict[str, Any]) -> str:
    """What the seconds went into, the largest part first."""
    seconds = throughput["seconds_per_item"]
    total = sum(seconds.values()) or 1.0
    parts = sorted(((seconds[name] / total, name) for name in PARTS), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in parts if share >= 0.005)


def line(throughput: dict[str, Any]) -> str:
    """The throughput for people."""
    return (
        f"{throughput['items']} items in {throughput['wall_s']:.0f} s, "
        f"{throughput['items_per_hour']:.0f} an hour: {shares(throughput)}"
    )
