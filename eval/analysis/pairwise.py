"""Every run against every other of its rate, item by item: who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.measures import (
    MEASURES,
    Results,
    column,
    method,
    rate,
    rates,
    require_same_items,
)
from eval.analysis.significance import holm, p_values, verdict
from eval.analysis.stats import paired_all, per_item

MIRROR = {"better": "worse", "worse": "better", "not told apart": "not told apart"}


class Table(NamedTuple):
    """One matrix: ``cells[row][column]`` is row minus column, None on the diagonal.

    Attributes
    ----------
    places : of each name its run's place in the results, None for a full prefill that has none.
    cells : ``estimate``, ``ci95``, ``p``, ``p_holm`` and ``verdict`` (of the row), or None.
    """

    measure: str
    rate: float | None
    names: list[str]
    places: list[int | None]
    cells: list[list[dict[str, Any] | None]]


class Pairwise(NamedTuple):
    """All matrices of a group of runs, and how many comparisons their corrected p allow for."""

    tables: list[Table]
    family: int


def pairwise(results: Results, seed: int, measures: Sequence[str]) -> Pairwise:
    """Paired differences of all pairs of runs at the same rate, or without one.

    The full prefill is among them for its score; of distances from it, it has none. Each pair is
    tested once, however many rates it stands in; all of them, of every measure and rate, are one
    family (Holm).

    Parameters
    ----------
    results : runs over the same items in the same order, each method and rate once.
    measures : of :data:`~eval.analysis.measures.MEASURES`, those that are means.

    Raises
    ------
    ValueError : runs over different items.
    """
    require_same_items(results)
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    shown = []
    wanted_rates: list[float | None] = [*rates(results)] or [None]
    for measure in measures:
        values = _values(results, measure)
        for wanted in wanted_rates:
            peers = [p for p in values if p < 0 or rate(results[p]) in (None, wanted)]
            if len(peers) > 1:
                shown.append((measure, wanted, peers))
        pairs = sorted({pair for m, _, peers in shown if m == measure for pair in _pairs(peers)})
        found |= _tested(measure, values, pairs, seed)
    corrected = holm([cell["p"] for cell in found.values()])
    for (measure, _, _), cell, p in zip(found, found.values(), corrected, strict=True):
        better = MEASURES[measure].higher_is_better
        cell |= {"p_holm": p, "verdict": verdict(p, cell["estimate"], better)}
    tables = [_table(results, *matrix, found) for matrix in shown]
    return Pairwise(tables, len(found))


def _values(results: Results, measure: str) -> dict[int, list[float]]:
    """Values by a run's place; those of a full prefill without a run of its own at -1."""
    of = MEASURES[measure]
    found = {
        place: values
        for place, result in enumerate(results)
        if (values := column(result, of)) is not None
        and (measure == "score" or method(result) != "no")
    }
    alone = all(method(result) != "no" for result in results)
    if measure == "score" and alone and (full := column(results[0], of, full=True)) is not None:
        found = {-1: full} | found
    return found


def _pairs(peers: Sequence[int]) -> list[tuple[int, int]]:
    return list(combinations(peers, 2))


def _tested(
    measure: str, values: dict[int, list[float]], pairs: list[tuple[int, int]], seed: int
) -> dict[tuple[str, int, int], dict[str, Any]]:
    """First minus second of each pair, with its interval and uncorrected p."""
    if not pairs:
        return {}
    of = MEASURES[measure]
    gaps = np.stack([per_item(values[a], values[b], of.resolution) for a, b in pairs])
    p = p_values(gaps, of.statistic, seed).tolist()
    return {
        (measure, *pair): {**difference, "p": one}
        for pair, difference, one in zip(pairs, paired_all(gaps, seed), p, strict=True)
    }


def _table(
    results: Results,
    measure: str,
    wanted: float | None,
    peers: Sequence[int],
    found: dict[tuple[str, int, int], dict[str, Any]],
) -> Table:
    def cell(row: int, other: int) -> dict[str, Any] | None:
        if row == other:
            return None
        if (key := (measure, row, other)) in found:
            return found[key]
        whole = found[measure, other, row]
        low, high = whole["ci95"]
        turned = {"estimate": -whole["estimate"] + 0.0, "ci95": [-high + 0.0, -low + 0.0]}
        return {**whole, **turned, "verdict": MIRROR[whole["verdict"]]}

    names = ["no" if p < 0 else method(results[p]) + "*" * results[p]["oracle"] for p in peers]
    places = [None if p < 0 else p for p in peers]
    return Table(measure, wanted, names, places, [[cell(a, b) for b in peers] for a in peers])
