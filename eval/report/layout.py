"""A report as text: a heading, rows under their columns, and a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from eval.report.columns import Column
from eval.report.figures import Report, Row
from stage.columns import columns as aligned

WIDTH = 120
ORACLES = "* oracle: an upper bound that has seen the full prefill; it has no time of its own."


def table(report: Report, columns: Sequence[Column], *notes: str) -> str:
    """One row per run, with what they have in common above and what it means below.

    Parameters
    ----------
    notes : further parts of the legend, each on a line of its own.
    """
    columns = [column for column in columns if any(map(column.where, report["rows"]))]
    body = lay_out(report["rows"], columns)
    return "\n".join([*heading(report), "", *body, "", *legend(columns, report["rows"], *notes)])


def heading(report: Report) -> list[str]:
    """Model, dataset, machine, and what the full prefill takes and scores."""
    config, load, kept = report["config"], report["load_ms"], report["answers_kept"]
    return [
        *([f"*** {report['note']} ***", ""] if report["note"] else []),
        f"{config['model']} on {config['dataset']}: {report['n']} of {report['available']} items, "
        f"{report['tokens']['median']:.0f} tokens in the median; {machine(report)}",
        f"full prefill: {report['full_prefill_ms']['median']:.0f} ms TTFT in the median, "
        + (
            "no answers to score"
            if report["full_score"] is None
            else f"{report['metric']} {report['full_score']:.1f}"
        )
        + ("" if load is None else f"; {load:.0f} ms to read KVs from disk")
        + (f"; {kept} of its answers decoded by an earlier run" if kept else ""),
    ]


def machine(report: Report) -> str:
    """What the times depend on."""
    config, env = report["config"], report["environment"]
    return (
        f"{config['dtype']}, {config['backend']} attention, {env['device']}, "
        f"{env['threads']} threads"
    )


def lay_out(rows: Iterable[Row], columns: Sequence[Column]) -> list[str]:
    """Rows under the columns' names."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    return aligned(
        [[column.name for column in columns], *cells], [column.side for column in columns]
    )


def legend(columns: Sequence[Column], rows: Iterable[Row], *notes: str) -> list[str]:
    """What the columns mean, in their order, and what else there is to say, in lines."""
    meanings = dict.fromkeys(column.meaning for column in columns if column.meaning)
    parts = [f"{'; '.join(meanings)}." if meanings else "", *notes]
    if any(row["oracle"] for row in rows):
        parts.append(ORACLES)
    return [line for part in parts for line in wrapped(part)]


def wrapped(text: str) -> list[str]:
    """Lines of a legend; words with hyphens stay whole."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
