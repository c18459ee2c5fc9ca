"""Who beats whom: every pair of runs, with its interval and what may be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.analysis.pairwise import Table, pairwise
from eval.report.comparison import DIGITS, few, show_p
from eval.report.page.chart import Grid

MEASURES = ("score", "kl_mean")
TITLES = {"score": "Score", "kl_mean": "Distance (KL along the answer)"}
VALUES = {"better": 1, "worse": -1, "not told apart": 0}
NOTE = (
    "Row minus column, item by item. B: the row is better, W: worse, where p < 0.05 after Holm's "
    "correction for the {family} comparisons of this section; ~: not told apart{few}. Every cell "
    "has its 95% interval."
)


def matrices(results: Sequence[dict[str, Any]], slug: str) -> list[Grid]:
    """A grid for each measure and rate; none where there is nothing to compare."""
    found = pairwise(results, results[0]["config"]["seed"], MEASURES)
    note = NOTE.format(family=found.family, few=few(len(results[0]["items"]), found.family))
    return [_grid(table, slug, note) for table in found.tables]


def _grid(table: Table, slug: str, note: str) -> Grid:
    at = "" if table.rate is None else f" at rate {table.rate:g}"
    cells = table.cells
    return Grid(
        name=f"{slug}-versus-{table.measure}{'' if table.rate is None else f'-r{table.rate:g}'}",
        title=f"{TITLES[table.measure]}{at}",
        rate="" if table.rate is None else f"{table.rate:g}",
        x_label="minus",
        y_label="method",
        columns=table.names,
        lines=table.names,
        values=[[None if c is None else VALUES[c["verdict"]] for c in row] for row in cells],
        texts=[[_text(c, DIGITS[table.measure]) for c in row] for row in cells],
        details=[[_detail(c, DIGITS[table.measure]) for c in row] for row in cells],
        scale="verdict",
        note=note,
    )


def _text(cell: dict[str, Any] | None, digits: int) -> str:
    """Difference and interval, in two lines."""
    if cell is None:
        return ""
    middle, low, high = _rounded(cell, digits)
    return f"{middle:+.{digits}f}\n[{low:.{digits}f}, {high:.{digits}f}]"


def _detail(cell: dict[str, Any] | None, digits: int) -> str:
    if cell is None:
        return ""
    return f"{cell['verdict']}; p {show_p(cell['p_holm'])} corrected, {show_p(cell['p'])} alone"


def _rounded(cell: dict[str, Any], digits: int) -> tuple[float, ...]:
    """Adding 0.0 turns the -0.0 of a rounded small loss into 0.0."""
    return tuple(round(x, digits) + 0.0 for x in (cell["estimate"], *cell["ci95"]))
