"""When precomputing pays: from which prompt length, after how many uses, on which disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BANDWIDTHS = (0.1, 0.5, 2.0, 7.0)  # GB/s: network storage, hard disk or SATA, NVMe, a fast NVMe


@dataclass(frozen=True)
class Point:
    """One prompt length. Times in milliseconds.

    Attributes
    ----------
    precompute_ms : to encode its chunks, once.
    full_ms : its full prefill, at every use without precomputed chunks.
    compute_ms : its fused prefill but for the load. load_ms : what of the load was waited for here.
    kv_bytes : what is loaded. layers : in so many steps, each while earlier ones compute; 1: it is
        waited for as a whole.
    """

    n: int
    precompute_ms: float
    full_ms: float
    compute_ms: float
    load_ms: float
    kv_bytes: int
    layers: int = 1

    def cold_ms(self, gb_per_s: float | None = None) -> float:
        """Cold TTFT on a disk of that bandwidth; None: on the one measured.

        There what was waited for was measured. Elsewhere the longer of load and computation hides
        the other but for one layer of it: the first one's load, or the last one's computation.
        """
        if gb_per_s is None:
            return self.compute_ms + self.load_ms
        short, long = sorted((self.compute_ms, self.kv_bytes / gb_per_s / 1e6))
        return long + short / self.layers

    def saving_ms(self, gb_per_s: float | None = None) -> float:
        """What one use saves; negative where reading takes longer than computing."""
        return self.full_ms - self.cold_ms(gb_per_s)

    def uses(self, gb_per_s: float | None = None) -> float:
        """Uses after which precompute is repaid: t_pre / (t_full − t_cold), or infinity.

        Rounded up it is the number of whole uses. A chunk that is one of many in prompts of this
        length has the same number: its share of the precompute over its share of the saving.
        """
        saving = self.saving_ms(gb_per_s)
        return self.precompute_ms / saving if saving > 0 else math.inf

    @property
    def slowest_gb_per_s(self) -> float:
        """The bandwidth below which a use saves nothing: its load makes both prefills equal."""
        longest = self.full_ms - self.compute_ms / self.layers
        if longest < self.compute_ms:  # the load would be the shorter of the two
            longest = (self.full_ms - self.compute_ms) * self.layers
        return self.kv_bytes / longest / 1e6 if longest > 0 else math.inf


def turns_positive(lengths: Sequence[int], gains: Sequence[float]) -> float | None:
    """The length from which on gains are positive; None where they are not at the last.

    Between two lengths the gain per token is taken as a straight line: a prefill's time per token
    grows with N like one, its time does not. The shortest length, where all gains are positive,
    says "this or less".
    """
    if gains[-1] <= 0:
        return None
    for i in range(len(gains) - 1, 0, -1):
        if gains[i - 1] <= 0:
            below, above = gains[i - 1] / lengths[i - 1], gains[i] / lengths[i]
            part = below / (below - above)
            return lengths[i - 1] + part * (lengths[i] - lengths[i - 1])
    return float(lengths[0])


def break_even(points: Sequence[Point]) -> list[dict[str, Any]]:
    """For the disk measured and for every one of ``BANDWIDTHS``: uses by length, and from where.

    ``gb_per_s`` is None for the disk measured. ``faster_from_n``: a cold prefill is faster than the
    full one; ``first_use_pays_from_n``: even with its precompute added. No number stands as None.
    """
    lengths = [point.n for point in points]
    disks = []
    for disk in (None, *BANDWIDTHS):
        savings = [point.saving_ms(disk) for point in points]
        first = [
            saving - point.precompute_ms for saving, point in zip(savings, points, strict=True)
        ]
        disks.append(
            {
                "gb_per_s": disk,
                "n": lengths,
                "cold_ms": [point.cold_ms(disk) for point in points],
                "uses": [finite(point.uses(disk)) for point in points],
                "faster_from_n": turns_positive(lengths, savings),
                "first_use_pays_from_n": turns_positive(lengths, first),
            }
        )
    return disks


def points(
    rows: Sequence[dict[str, Any]], method: str, rate: float, tokens_per_s: float
) -> list[Point]:
    """The points of one method at one rate, from the rows of ``bench.json``, shortest first."""
    chosen = [row for row in rows if row["method"] == method and row["rate"] == rate]
    return [
        Point(
            row["n"],
            row["n"] / tokens_per_s * 1e3,
            row["full_ms"],
            row["cold_ms"] - row["load_ms"],
            row["load_ms"],
            row["kv_bytes"],
            row["layers"],
        )
        for row in sorted(chosen, key=lambda row: row["n"])
    ]


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None
