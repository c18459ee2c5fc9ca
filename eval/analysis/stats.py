"""Summaries over items: mean, median, p95, bootstrap intervals, paired differences and ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eval.analysis.finite import require_finite

RESAMPLES = 10_000
Values = Sequence[float] | np.ndarray


def bootstrap(values: Values, seed: int, statistic: str = "mean") -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean or median over items.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    data = np.asarray(values, dtype=np.float64)
    require_finite(data, "values to resample")
    function = np.mean if statistic == "mean" else np.median
    draws = np.concatenate([function(data[items], axis=1) for items in _resamples(len(data), seed)])
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def per_item(values: Values, others: Values, resolution: float = 0.0) -> np.ndarray:
    """Differences ``values - others`` item by item; those up to ``resolution`` are ties: 0.

    Raises
    ------
    ValueError : no items, or not as many of one as of the other.
    NotFinite : NaN or infinite values; likewise in all that follows.
    """
    ours, theirs = _pairs(values, others)
    differences = ours - theirs
    return np.where(np.abs(differences) <= resolution, 0.0, differences)


def paired(differences: Values, seed: int, statistic: str = "mean") -> dict[str, Any]:
    """Mean or median of per-item differences, with its 95% interval.

    Items are resampled whole, so what makes an item hard for both cancels out (Efron & Tibshirani
    1993, chapter 8). For one seed and number of items every comparison draws the same items.

    Returns
    -------
    dict with ``estimate`` and ``ci95`` ([low, high]), in the unit of the differences.
    """
    require_finite(np.asarray(differences), "differences")
    estimate = np.mean(differences) if statistic == "mean" else np.median(differences)
    return {
        "estimate": float(estimate),
        "ci95": list(bootstrap(differences, seed, statistic)),
    }


def paired_all(differences: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """``paired`` of the mean for each row of ``[k, n]`` at once: how often a resample draws each
    item is counted once, and one product gives every mean.
    """
    require_finite(differences, "differences")
    n = differences.shape[1]
    draws = []
    for items in _resamples(n, seed):
        shifted = items + n * np.arange(len(items))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=len(items) * n).reshape(len(items), n)
        draws.append(counts @ differences.T / n)
    ends = np.percentile(np.concatenate(draws), [2.5, 97.5], axis=0)
    return [
        {"estimate": float(row.mean()), "ci95": [float(low), float(high)]}
        for row, low, high in zip(differences, *ends, strict=True)
    ]


def ratio(
    numerators: Sequence[float], denominators: Sequence[float], seed: int
) -> dict[str, float | list[float | None] | None]:
    """Ratio of the two means over the same items, with its 95% paired bootstrap interval.

    A resample whose denominators are all 0 has no ratio. It could be anything, so it counts below
    every number for the lower end of the interval and above every number for the upper one; if its
    numerators are not all 0 it is infinite and counts above at both ends. An end that this pushes
    out of sight is None: the items do not bound it.

    Parameters
    ----------
    numerators, denominators : not negative, one each per item.

    Returns
    -------
    dict with ``estimate`` and ``ci95`` ([low, high]); both None where the denominators are all 0.

    Raises
    ------
    ValueError : no items, or not as many of one as of the other.
    """
    above, below = _pairs(numerators, denominators)
    if not below.any():
        return {"estimate": None, "ci95": None}
    sums = np.concatenate(
        [[above[items].sum(1), below[items].sum(1)] for items in _resamples(len(above), seed)],
        axis=1,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = sums[0] / sums[1]
        ends = [
            np.percentile(np.where(np.isnan(draws), unknown, draws), share)
            for unknown, share in ((-np.inf, 2.5), (np.inf, 97.5))
        ]
    return {
        "estimate": float(above.mean() / below.mean()),
        "ci95": [float(end) if np.isfinite(end) else None for end in ends],
    }


def spread(values: Sequence[float], seed: int) -> dict[str, float | list[float]]:
    """Median with its interval and 95th percentile, for times."""
    require_finite(np.asarray(values), "times")
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "ci95": list(bootstrap(values, seed, "median")),
    }


def middle(values: Sequence[float]) -> list[int]:
    """Indices of the item(s) whose value makes the median: one, or the middle two."""
    require_finite(list(values), "values whose middle is sought")
    order = sorted(range(len(values)), key=lambda i: values[i])
    half = len(order) // 2
    return order[half : half + 1] if len(order) % 2 else order[half - 1 : half + 1]


def _resamples(n: int, seed: int) -> Iterator[np.ndarray]:
    """Item indices ``[1000, n]`` of ``RESAMPLES`` resamples, the same for a seed and ``n``."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES // 1000):
        yield rng.integers(0, n, (1000, n))


def _pairs(values: Values, others: Values) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if not len(first) or first.shape != second.shape:
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    require_finite(np.stack([first, second]), "values to compare")
    return first, second
