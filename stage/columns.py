"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def columns(
    rows: Sequence[Sequence[str]], sides: str | Sequence[str], gap: str = "  "
) -> list[str]:
    """Lay rows of cells out as lines, every column as wide as its widest cell.

    Parameters
    ----------
    rows : as many cells in each; the head is one of them.
    sides : ``<`` (left) or ``>`` (right) for every column; a single one serves all.
    gap : what stands between two columns.

    Returns
    -------
    One line a row, without blanks at its end.

    Raises
    ------
    ValueError : rows of different lengths, or not a side for every column.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    if len(sides) == 1:
        sides = [sides[0]] * len(widths)
    return [
        gap.join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
