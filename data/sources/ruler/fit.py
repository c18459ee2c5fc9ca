"""Sizing: how much haystack fills a prompt of the length asked for, in few measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.sources.ruler.sample import Draft, Sample

# A prompt may lack this share of the tokens asked for, or one unit of haystack where that is more.
SLACK = 0.01
TOLERANCE = 0.05
_SECANT_CALLS = 8


class TooShort(Exception):
    """Even the smallest haystack takes more; the message is the tokens that it needs."""


class TooLong(Exception):
    """Even the largest haystack takes less; the message is the tokens that it makes."""


@dataclass(frozen=True)
class Fitted:
    """A sample that fits, the `size` of its haystack, its `tokens`, and tokens per unit of size."""

    sample: Sample
    size: int
    tokens: int
    rate: float


def fit(
    draft: Draft, tokens: Callable[[Sample], int], asked: int, before: Fitted | None = None
) -> Fitted:
    """The draft with about as much haystack as `asked` tokens hold, and never more.

    Starts from the size that fitted another row of the same length (`before`), where there is
    one, and moves along the line through the last two measurements, halving the bracket where
    that is slow. Raises TooShort and TooLong.
    """
    low: Fitted | None = None
    high: tuple[int, int] | None = None
    rate = before.rate if before else draft.rate
    size = before.size if before else draft.smallest + _floor(asked / 2 / rate)
    if before:
        size += _floor((_target(asked, rate) - before.tokens) / rate)
    calls = 0
    while True:
        size = max(draft.smallest, size if draft.largest is None else min(size, draft.largest))
        sample = draft.build(size)
        count, calls = tokens(sample), calls + 1
        last = (low.size, low.tokens) if low else high
        if last and size != last[0] and count != last[1]:
            rate = max(abs((count - last[1]) / (size - last[0])), 1e-3)
        if count > asked:
            if size == draft.smallest:
                raise TooShort(str(count))
            high = (size, count)
        else:
            low = Fitted(sample, size, count, rate)
            if size == draft.largest and count < asked * (1 - TOLERANCE):
                raise TooLong(str(count))
            # A first measurement without experience of this length says nothing about the rate.
            known = rate if before or calls > 1 else 0.0
            full = count > asked - max(SLACK * asked, known)
            if full or size == draft.largest:
                return low
        if low and high and high[0] - low.size <= 1:
            return low
        step = _floor((_target(asked, rate) - count) / rate) or (1 if count <= asked else -1)
        size += step
        size = max(size, low.size + 1) if low else size
        size = min(size, high[0] - 1) if high else size
        if low and high and calls > _SECANT_CALLS:
            size = (low.size + high[0]) // 2


def _target(asked: int, rate: float) -> float:
    """The middle of the lengths that are near enough."""
    return asked - max(SLACK * asked, rate) / 2


def _floor(number: float) -> int:
    return int(number // 1)
