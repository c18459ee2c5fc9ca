"""Summaries over items: mean, median, p95, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def bootstrap(values: Sequence[float], seed: int, statistic: str = "mean") -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean or median over items.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    function = np.mean if statistic == "mean" else np.median
    draws = np.concatenate(
        [
            function(data[rng.integers(0, len(data), (1000, len(data)))], axis=1)
            for _ in range(RESAMPLES // 1000)
        ]
    )
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def spread(values: Sequence[float], seed: int) -> dict[str, float | list[float]]:
    """Median with its interval and 95th percentile, for times."""
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "ci95": list(bootstrap(values, seed, "median")),
    }


def middle(values: Sequence[float]) -> list[int]:
    """Indices of the item(s) whose value makes the median: one, or the middle two."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    half = len(order) // 2
    return order[half : half + 1] if len(order) % 2 else order[half - 1 : half + 1]
