"""One table over many datasets, with an average for each group and each benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.analysis.measures import Results
from eval.report.columns import KL_FIRST, SCORE, SPEEDUP
from eval.report.figures import Report, Row, name, report
from eval.report.layout import machine, wrapped
from stage.columns import columns as aligned

COLUMNS = (SCORE, KL_FIRST._replace(name="KL"), SPEEDUP._replace(name="x"))
LEGEND = (
    "full, score: the dataset's own metric, out of 100, of the full prefill and of the method; KL: "
    "the first token's distance (nats) from the full prefill's distribution; x: speed-up of TTFT, "
    "KVs in memory. Averages weigh datasets alike."
)


class Line(NamedTuple):
    """One line of the table: what it is of, and the cells of each method."""

    lead: tuple[str, ...]
    cells: list[list[str]]


def table(by_dataset: Sequence[Results]) -> str:
    """Rows are datasets, columns are methods.

    Parameters
    ----------
    by_dataset : for each dataset the results of all methods, in the same order. Those of no suite,
        or of no group, have no average: nothing but the command brings them together.
    """
    reports = [report(results) for results in by_dataset]
    blank = Line(("",) * 4, [[""] * len(COLUMNS)] * len(reports[0]["rows"]))
    lines = [_head(reports[0])]
    for suite in dict.fromkeys(found["suite"] for found in reports):
        members = [found for found in reports if found["suite"] == suite]
        for group in dict.fromkeys(found["group"] for found in members):
            inside = [found for found in members if found["group"] == group]
            lines += [_line(found) for found in inside]
            if group and len(inside) > 1:
                lines.append(_average(f"= {group}", inside))
        if suite and len(members) > 1:
            lines += [_average(f"== {suite}", members), blank]
    by_length = _by_length(reports)
    if lines[-1] is blank:
        lines.pop()
    lines += [blank, *by_length] if by_length else []
    samples = sum(found["note"] is not None for found in reports)
    note = (
        f"*** marked *: {samples} ran on BUILT-IN SAMPLES, NOT THE BENCHMARK; no score of theirs "
        "compares with a published one ***"
    )
    methods = [name(row) + "*" * row["oracle"] for row in reports[0]["rows"]]
    text = [
        f"{reports[0]['config']['model']}: {len(reports)} datasets; {machine(reports[0])}",
        *wrapped(_behind(reports[0])),
        "",
        *_lay_out(lines, methods),
        *(["", note] if samples else []),
        "",
        *wrapped(LEGEND),
    ]
    return "\n".join(text)


def _behind(first: Report) -> str:
    """What each method's chunks were captured behind."""
    named = dict.fromkeys((row["method"], row["context"]) for row in first["rows"])
    told = "; ".join(f"{method}: {context}" for method, context in named if context)
    return f"chunks captured behind: {told}" if told else ""


def _head(first: Report) -> Line:
    names = [column.name for column in COLUMNS]
    return Line(("dataset", "n", "metric", "full"), [names for _ in first["rows"]])


def _line(found: Report) -> Line:
    lead = (
        found["config"]["dataset"] + "*" * (found["note"] is not None),
        str(found["n"]),
        found["metric"] or "-",
        SCORE.cell({"score": found["full_score"]}),
    )
    return Line(lead, [_cells(row) for row in found["rows"]])


def _cells(row: Row) -> list[str]:
    return [column.cell(row) for column in COLUMNS]


def _average(title: str, members: Sequence[Report]) -> Line:
    """Mean of the members' figures, method by method; none where a member has none."""

    def mean(values: list[float | None]) -> float | None:
        return None if None in values else float(np.mean(np.asarray(values, dtype=float)))

    rows = [
        {key: mean([row[key] for row in same]) for key in ("score", "kl_first", "speedup_ready")}
        for same in zip(*(found["rows"] for found in members), strict=True)
    ]
    full = SCORE.cell({"score": mean([found["full_score"] for found in members])})
    items = sum(found["n"] for found in members)
    return Line((title, str(items), "average", full), [_cells(row) for row in rows])


def _by_length(reports: Sequence[Report]) -> list[Line]:
    """LongBench-E's scores by length of the context, averaged over its datasets."""
    tasks = [found["rows"] for found in reports if found["rows"][0]["score_by_length"]]
    lines = []
    for band in tasks[0][0]["score_by_length"] if tasks else ():
        cells = []
        for same in zip(*tasks, strict=True):
            known = [s for row in same if (s := row["score_by_length"][band]) is not None]
            score = float(np.mean(known)) if known else None
            cells.append([SCORE.cell({"score": score}), *[""] * (len(COLUMNS) - 1)])
        lines.append(Line((f"LongBench-E {band}", "", "", ""), cells))
    return lines


def _lay_out(lines: Sequence[Line], methods: Sequence[str]) -> list[str]:
    """The methods' names above their columns."""
    blocks = [["", *aligned([line.lead for line in lines], "<><>")]]
    for place, method in enumerate(methods):
        blocks.append([method, *aligned([line.cells[place] for line in lines], ">")])
    padded = []
    for title, *body in blocks:
        width = max(map(len, body))
        inner = [f"{line:<{width}}" for line in body]
        width = max(width, len(title))
        padded.append([f"{title:^{width}}", *(f"{line:>{width}}" for line in inner)])
    return ["   ".join(row).rstrip() for row in zip(*padded, strict=True)]
