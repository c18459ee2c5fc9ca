"""The study's primary comparisons: our method against the best published one, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.measures import (
    MEASURES,
    Results,
    column,
    corrector,
    method,
    rate,
    require_same_items,
    selector,
)
from eval.analysis.significance import holm, p_values, verdict
from eval.analysis.stats import paired, per_item, ratio
from models.selectors import selector_class

OURS, PUBLISHED_RATE = "primer", 0.15
CONTROLS = ("no", "full", "random", "cat")  # none of them is a published method of fusion


class Claim(NamedTuple):
    """What is compared: ours at a rate with a published method at its own, and how far below.

    Attributes
    ----------
    other : the method's name; None for the published one whose mean KL is the lowest.
    share : our mean KL is to be at most so many times the other's.
    """

    rate: float
    other: str | None
    share: float


PRIMARY = (Claim(0.15, None, 1 / 3), Claim(0.02, None, 1.0), Claim(0.0, "blend", 1.0))


def claims(models: Mapping[str, Results], seed: int = 0) -> list[dict[str, Any]]:
    """Every primary comparison on every model, Holm's correction over all of them.

    Parameters
    ----------
    models : results of the test part, by model.

    Returns
    -------
    One dict a comparison: ``model``, ``n``, ``rate``, ``other``, ``ours`` and ``theirs`` (mean KL
    along the answer), ``ratio`` with ``ratio_ci95``, ``difference`` with ``ci95``, ``p`` and
    ``p_holm`` of the difference, its ``verdict``, the ``share`` wanted and whether it is ``met``.
    """
    rows = []
    measure = MEASURES["kl_mean"]
    for model, results in models.items():
        require_same_items(results)
        for claim in PRIMARY:
            ours = _one(results, OURS, claim.rate)
            theirs = best_published(results, claim.other)
            if ours is None or theirs is None:
                continue
            a, b = (column(result, measure) or [] for result in (ours, theirs))
            gaps = per_item(a, b, measure.resolution)
            found, apart = ratio(a, b, seed), paired(gaps, seed)
            rows.append(
                {
                    "model": model,
                    "n": len(a),
                    "rate": claim.rate,
                    "other": method(theirs),
                    "other_rate": rate(theirs),
                    "ours": float(np.mean(a)),
                    "theirs": float(np.mean(b)),
                    "ratio": found["estimate"],
                    "ratio_ci95": found["ci95"],
                    "difference": apart["estimate"],
                    "ci95": apart["ci95"],
                    "p": float(p_values(gaps[None], "mean", seed)[0]),
                    "share": claim.share,
                }
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {
            "p_holm": p,
            "verdict": verdict(p, row["difference"], higher_is_better=False),
            "met": row["ours"] <= row["share"] * row["theirs"],
        }
    return rows


def best_published(results: Results, named: str | None = None) -> dict[str, Any] | None:
    """The published method, as published, whose mean KL is the lowest; or the one that is named."""
    found = [
        result
        for result in results
        if rate(result) == PUBLISHED_RATE
        and not result["oracle"]
        and as_published(result)
        and method(result) not in (OURS, *CONTROLS)
        and named in (None, method(result))
    ]
    return min(found, key=_kl, default=None)


def as_published(result: dict[str, Any]) -> bool:
    """Whether a run has its method's own context, and no corrector."""
    own = selector_class(selector(result).partition(":")[0]).context
    return bool(result["config"]["context"] == own) and corrector(result) == "none"


def _kl(result: dict[str, Any]) -> float:
    return float(result["kl_mean"])


def _one(results: Sequence[dict[str, Any]], name: str, wanted: float) -> dict[str, Any] | None:
    return next((r for r in results if method(r) == name and rate(r) == wanted), None)
