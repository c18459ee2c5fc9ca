"""What differences over items allow to claim: tests without assumptions, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, permutation_test

from eval.analysis.finite import require_finite

ALPHA = 0.05
FLIPS = 99_999
# All patterns of so many signs are fewer than FLIPS.
EXACT = 16
# Rows and signs that are held at a time: about 50 MB.
ROWS, SIGNS = 64, 2_000_000


def p_values(differences: np.ndarray, statistic: str, seed: int) -> np.ndarray:
    """Two-sided p of each row of per-item differences ``[k, n]``, for its mean or its median."""
    return sign_flip(differences, seed) if statistic == "mean" else sign_test(differences)


def sign_flip(differences: np.ndarray, seed: int) -> np.ndarray:
    """Paired permutation test of the mean: the two-sided p of each row.

    If it does not matter to an item which of the two methods it got, its difference may as well
    have the other sign. p is twice the share of the sign patterns whose mean is as far out as the
    one found, on its side. That holds for every number of items, every distribution and any ties:
    a difference of 0 has no sign and changes nothing (Fisher, The Design of Experiments, 1935,
    section 21). Over all 2^m patterns where at most ``EXACT`` differences are not 0, else over
    ``FLIPS`` random ones, the same for one seed and number of items; so the least p is 2 / 2^m.

    Parameters
    ----------
    differences : ``[k, n]``, ties as exact zeros.

    Returns
    -------
    ``[k]``
    """
    require_finite(differences, "differences to test")
    untied = np.count_nonzero(differences, axis=1)
    p = np.ones(len(differences))
    for m in set(untied[(untied > 1) & (untied <= EXACT)].tolist()):  # of one alone, p is 2 / 2
        rows = differences[untied == m]
        p[untied == m] = _flipped(rows[rows != 0].reshape(-1, m), seed)
    many = np.flatnonzero(untied > EXACT)
    for first in range(0, len(many), ROWS):
        some = many[first : first + ROWS]
        p[some] = _flipped(differences[some], seed)
    return p


def _flipped(rows: np.ndarray, seed: int) -> np.ndarray:
    """The permutation test of rows ``[k, m]``, none of them all 0.

    What scipy permutes are the signs of ones; one product then applies them to every row.
    """
    m = rows.shape[1]
    # Of unit length, so that rounding takes the sums' own noise: equal sums must be counted equal.
    weights = (rows / np.abs(rows).sum(1, keepdims=True)).T
    found: Any = permutation_test(
        (np.ones(m),),
        lambda signs, axis: (signs @ weights).round(12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, SIGNS // m),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.pvalue)


def sign_test(differences: np.ndarray) -> np.ndarray:
    """Exact sign test of the median: the two-sided p of each row; ties are left out.

    For times: a busy machine stretches some of them, many times over and to one side only. Flipping
    signs asks for differences that are as likely to lie above 0 as below, at every distance; the
    sign test asks that of no distance, only on which side an item lies, and so it tests the median.

    Parameters
    ----------
    differences : ``[k, n]``, ties as exact zeros.

    Returns
    -------
    ``[k]``
    """
    require_finite(differences, "differences to test")
    p = np.ones(len(differences))
    for i, row in enumerate(differences):
        above, below = int((row > 0).sum()), int((row < 0).sum())
        if above + below:
            p[i] = binomtest(above, above + below).pvalue
    return p


def holm(p: Sequence[float]) -> list[float]:
    """The p of a family of comparisons, corrected so that one false claim in it stays below 5%.

    Holm, A simple sequentially rejective multiple test procedure, 1979: the smallest of m is
    multiplied by m, the next by m - 1, and so on; none gets smaller than one before it.
    """
    found = np.asarray(p, dtype=np.float64)
    require_finite(found, "p to correct")
    order = np.argsort(found, kind="stable")
    steps = found[order] * np.arange(len(found), 0, -1)
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def verdict(p: float, estimate: float, higher_is_better: bool) -> str:
    """What a difference with this corrected p may be called.

    Returns
    -------
    "better", "worse" or "not told apart".
    """
    if p >= ALPHA or estimate == 0:
        return "not told apart"
    return "better" if (estimate > 0) == higher_is_better else "worse"


def hopeless(items: int, family: int) -> bool:
    """Whether not even items that all point one way could give a claim, the family being so large.

    The least p of n differences is 2 / 2^n, and Holm multiplies the smallest by the family's size.
    """
    return family * 2 / 2**items >= ALPHA
