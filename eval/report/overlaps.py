"""Overlaps of selections for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.report.layout import wrapped
from stage.columns import columns as aligned

LEGEND = (
    "overlap: of the document tokens that the column's method recomputes, the share that the row's "
    "does too, mean over items. A random choice overlaps with any other by the rate."
)


def table(overlaps: Sequence[dict[str, Any]]) -> str:
    """All pairs at the middle rate, and every method with each oracle at all rates.

    Parameters
    ----------
    overlaps : what ``overlap.matrices`` returned. At rates 0 and 1 all choices are alike: left out.
    """
    inner = [found for found in overlaps if 0 < found["rate"] < 1 and len(found["methods"]) > 1]
    if not inner:
        return ""
    middle = inner[(len(inner) - 1) // 2]
    names = middle["methods"]
    cells = [[_percent(middle, name, reference) for reference in names] for name in names]
    blocks = [_grid(f"overlap % at {middle['rate']:g}", names, names, cells)]
    columns = [f"{found['rate']:g}" for found in inner]
    for oracle in dict.fromkeys(name for found in inner for name in found["oracles"]):
        others = [name for name in names if name != oracle]
        cells = [[_percent(found, name, oracle) for found in inner] for name in others]
        blocks.append(_grid(f"with {oracle}, at rate", others, columns, cells))
    return "\n\n".join([*blocks, "\n".join(wrapped(LEGEND))])


def _percent(found: dict[str, Any], name: str, reference: str) -> str:
    methods = found["methods"]
    if name not in methods or reference not in methods:
        return "-"
    mean = found["mean"][methods.index(name)][methods.index(reference)]
    return "-" if mean is None else f"{100 * mean:.0f}"


def _grid(
    title: str, names: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
    return "\n".join(aligned([[title, *columns], *rows], ["<", *[">"] * len(columns)]))
