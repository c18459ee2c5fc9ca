"""Each method against the full prefill, the random control and the best, item by item."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.measures import (
    MEASURES,
    Measure,
    Results,
    codec,
    column,
    corrector,
    drop,
    method,
    rate,
    rates,
    require_same_items,
    selector,
)
from eval.analysis.significance import holm, p_values, verdict
from eval.analysis.stats import paired, per_item

# The full prefill's place among the runs: every record of any of them holds its values.
FULL = -1
# What is tested: a measure, and the places of the two that differ in it.
Test = tuple[str, frozenset[int]]


class Compared(NamedTuple):
    """Differences of all runs, and how many comparisons their corrected p allow for."""

    rows: list[dict[str, Any]]
    family: int


def differences(
    results: Results, seed: int, shown: Sequence[tuple[str, str]], rateless: bool = True
) -> Compared:
    """Differences of every run to the full prefill, the random control and the best, at its rate.

    The control has the corrector, policy and codec of the run that is compared with it.

    ``best`` has, measure by measure, the best mean (of TTFT, the best median) of all runs but the
    full prefill and the oracles, at the same rate or without one. Methods without a rate are
    compared at each rate.

    Claims are made only of what a table shows, and its comparisons are one family (Holm). Two runs
    that stand beside each other twice count once. Which one is the best is known only after looking
    at all of them, so a comparison with it is as much as one with each that might have been it:
    all of those are in the family.

    Parameters
    ----------
    results : runs over the same items in the same order, each method and rate once.
    shown : the roles ("no", "random", "best") and measures that the table shows.
    rateless : whether it shows methods without a rate.

    Returns
    -------
    For each rate and method but ``no`` a dict of ``method``, ``rate`` (the run's own, or None),
    ``at`` (the rate of the comparison), ``oracle`` and ``to``: "no", "random" and "best" to
    measures (``MEASURES``), and these to ``{"other", "estimate", "ci95", "p", "p_holm",
    "verdict"}``, method minus other; the last two are None outside the family. What is
    missing is left out: the control where it did not run, a run against itself, times of oracles.

    Raises
    ------
    ValueError : runs over different items.
    """
    require_same_items(results)
    places = [(wanted, place, peers) for wanted, peers in _by_rate(results) for place in peers]
    pairs = [_pairs(results, place, peers) for _, place, peers in places]
    claimed = [
        pair
        for pair in chain(*pairs)
        if pair[:2] in shown and (rateless or rate(results[pair.place]) is not None)
    ]
    family = list(dict.fromkeys(test for pair in claimed for test in pair.tests()))
    opponents = [pair.tests()[0] for pair in chain(*pairs)]
    p = _p(results, dict.fromkeys([*family, *opponents]), seed)
    corrected = dict(zip(family, holm([p[test] for test in family]), strict=True))
    rows = []
    for (wanted, place, _), found in zip(places, pairs, strict=True):
        to: dict[str, dict[str, Any]] = {}
        for pair in found:
            test = pair.tests()[0]
            difference = _difference(results, pair, seed, p[test], corrected.get(test))
            to.setdefault(pair.role, {})[pair.name] = difference
        result = results[place]
        rows.append(
            {
                "method": method(result),
                "rate": rate(result),
                "at": wanted,
                "oracle": result["oracle"],
                "to": to,
            }
        )
    return Compared(rows, len(family))


class Pair(NamedTuple):
    """A run beside another, in one measure.

    Attributes
    ----------
    others : places of the other and, where it was chosen, of those that might have been instead.
    """

    role: str
    name: str
    place: int
    others: list[int]

    def tests(self) -> list[Test]:
        """The comparison that is shown, then those that the choice was made among."""
        return [(self.name, frozenset((self.place, other))) for other in self.others]


def _by_rate(results: Results) -> list[tuple[float | None, list[int]]]:
    """Each rate and the places of the runs that are compared at it."""
    fused = [place for place, result in enumerate(results) if method(result) != "no"]
    wanted_rates: list[float | None] = [*rates(results)] or [None]
    return [
        (wanted, [place for place in fused if rate(results[place]) in (None, wanted)])
        for wanted in wanted_rates
    ]


def _pairs(results: Results, place: int, peers: Sequence[int]) -> list[Pair]:
    """All that a run is compared with, measure by measure."""

    def beside(result: dict[str, Any]) -> tuple[str, ...]:
        return corrector(result), drop(result), codec(result)

    with_same = [i for i in peers if beside(results[i]) == beside(results[place])]
    controls = [i for i in with_same if selector(results[i]).partition(":")[0] == "random"][:1]
    found = []
    for name, measure in MEASURES.items():
        values = {i: v for i in peers if (v := column(results[i], measure)) is not None}
        if place not in values:
            continue
        if column(results[place], measure, full=True) is not None:
            found.append(Pair("no", name, place, [FULL]))
        found += [Pair("random", name, place, [i]) for i in controls if i in values and i != place]
        ranked = _ranked({i: v for i, v in values.items() if not results[i]["oracle"]}, measure)
        if ranked and ranked[0] != place:
            found.append(Pair("best", name, place, [i for i in ranked if i != place]))
    return found


def _ranked(values: dict[int, list[float]], measure: Measure) -> list[int]:
    """Runs by their mean or median, the best first."""
    middle = np.mean if measure.statistic == "mean" else np.median
    sign = -1 if measure.higher_is_better else 1
    return sorted(values, key=lambda place: sign * float(middle(values[place])))


def _gaps(results: Results, place: int, other: int, name: str) -> np.ndarray:
    """Per-item differences of a run to another or, of the same items, to the full prefill."""
    measure = MEASURES[name]
    ours = column(results[place], measure)
    theirs = column(results[place if other == FULL else other], measure, full=other == FULL)
    assert ours is not None, "only pairs with values are compared"
    assert theirs is not None, "only pairs with values are compared"
    return per_item(ours, theirs, measure.resolution)


def _p(results: Results, tests: Collection[Test], seed: int) -> dict[Test, float]:
    """p of each test, those of one statistic at once; who is taken from whom changes no p."""
    found: dict[Test, float] = {}
    for statistic in ("mean", "median"):
        some = [test for test in tests if MEASURES[test[0]].statistic == statistic]
        gaps = [_gaps(results, max(pair), min(pair), name) for name, pair in some]
        if some:
            p = p_values(np.stack(gaps), statistic, seed)
            found.update(zip(some, p.tolist(), strict=True))
    return found


def _difference(
    results: Results, pair: Pair, seed: int, p: float, p_holm: float | None
) -> dict[str, Any]:
    measure, other = MEASURES[pair.name], pair.others[0]
    gaps = _gaps(results, pair.place, other, pair.name)
    found = paired(gaps, seed, measure.statistic)
    claim = None if p_holm is None else verdict(p_holm, found["estimate"], measure.higher_is_better)
    return {
        "other": "no" if other == FULL else method(results[other]),
        **found,
        "p": p,
        "p_holm": p_holm,
        "verdict": claim,
    }
