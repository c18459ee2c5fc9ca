"""A budget shared out in whole tokens."""

from __future__ import annotations

from collections.abc import Sequence


def largest_remainder(lengths: Sequence[int], total: int) -> list[int]:
    """``total`` split in proportion to ``lengths``: floors first, then by largest remainder.

    Ties go to the earlier entry. No entry gets more than its length as long as ``total`` is at most
    their sum. Integer arithmetic throughout.
    """
    size = sum(lengths)
    if not size:
        return [0] * len(lengths)
    counts = [length * total // size for length in lengths]
    order = sorted(range(len(lengths)), key=lambda i: (-(lengths[i] * total % size), i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
