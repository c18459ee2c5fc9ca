"""Where a method does not come closer to the full prefill although it recomputes more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from eval.analysis.measures import MEASURES, ROUNDING, Results, column, method, rate
from eval.analysis.significance import holm, sign_flip, verdict
from eval.analysis.stats import paired, per_item

DISTANCES = {"kl_mean": "KL along the answer", "kl_first": "KL of the first token"}
Step = tuple[str, str, tuple[float | None, ...], list[float], list[float]]


def alarms(results: Results, seed: int) -> list[dict[str, Any]]:
    """Steps to the next higher rate at which a method does not come closer to the full prefill.

    A distance of 0, up to rounding, cannot fall further and raises no alarm. What is beyond the
    noise is told as differences between methods are: by a permutation test, with the p of all steps
    corrected together (Holm).

    Returns
    -------
    dicts with ``method``, ``measure`` ("kl_mean" or "kl_first"), ``rates`` and ``values`` (before
    and after), the ``difference`` (``estimate``, ``ci95``, ``p``, ``p_holm``), ``beyond_noise`` and
    the ``line`` to print.
    """
    steps = list(_steps(results))
    if not steps:
        return []
    gaps = np.stack(
        [per_item(after, before, MEASURES[name].resolution) for _, name, _, before, after in steps]
    )
    p = sign_flip(gaps, seed).tolist()
    found = []
    for step, gap, raw, corrected in zip(steps, gaps, p, holm(p), strict=True):
        name, measure, ends, *values = step
        before, after = (float(np.mean(v)) for v in values)
        if after < before or after <= ROUNDING:
            continue
        difference = {**paired(gap, seed), "p": raw, "p_holm": corrected}
        beyond = verdict(corrected, difference["estimate"], higher_is_better=False) == "worse"
        found.append(
            {
                "method": name,
                "measure": measure,
                "rates": list(ends),
                "values": [before, after],
                "difference": difference,
                "beyond_noise": beyond,
                "line": f"ALARM: {name}: {DISTANCES[measure]} does not fall from rate {ends[0]:g} "
                f"({before:.4f}) to {ends[1]:g} ({after:.4f}), "
                f"{'beyond' if beyond else 'within'} the noise of {len(gap)} items",
            }
        )
    return found


def _steps(results: Results) -> Iterator[Step]:
    """Method, measure, both rates, and the distances before and after, item by item."""
    for name in dict.fromkeys(map(method, results)):
        runs = [r for r in results if method(r) == name and rate(r) is not None]
        runs.sort(key=lambda run: float(rate(run) or 0))
        for measure in DISTANCES:
            for pair in pairwise(runs):
                before, after = (column(run, MEASURES[measure]) for run in pair)
                if before is not None and after is not None:
                    yield name, measure, tuple(map(rate, pair)), before, after
