"""Charts as plain data: what the page draws, the picture beside it shows, and its CSV holds.

A chart with a ``rate`` shows methods at that rate only; a reader chooses among those of a section.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from eval.report.page.style import Style

Cell = str | float | int | None
Interval = Sequence[float] | None


@dataclass(frozen=True)
class Line:
    """Points of one method.

    Attributes
    ----------
    runs, labels : the page's name of each point's run, and the point's own.
    x_ci, y_ci : their intervals. limits : the x that arithmetic allows. Empty where there are none.
    """

    label: str
    style: Style
    x: list[float]
    y: list[float]
    runs: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    x_ci: list[Interval] = field(default_factory=list)
    y_ci: list[Interval] = field(default_factory=list)
    limits: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Lines:
    """Lines over two axes; ``guides`` are horizontal lines: label, style and height."""

    kind: ClassVar[str] = "lines"
    name: str
    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    guides: list[tuple[str, Style, float]] = field(default_factory=list)
    note: str = ""
    rate: str = ""
    log_y: bool = False

    def rows(self) -> Iterator[list[Cell]]:
        """A head and a row for each point."""
        yield [
            "line", "point", self.x_label, "low", "high", self.y_label, "low", "high", "limit",
        ]  # fmt: skip
        for line in self.lines:
            for i, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
                label = line.labels[i] if line.labels else None
                x_ends, y_ends = (ends[i] if ends else None for ends in (line.x_ci, line.y_ci))
                limit = line.limits[i] if line.limits else None
                nothing = (None, None)
                yield [line.label, label, x, *(x_ends or nothing), y, *(y_ends or nothing), limit]
        for label, _, height in self.guides:
            yield [label, None, None, None, None, height, None, None, None]


@dataclass(frozen=True)
class Part:
    """One bar of every category: a part of a stack, or one of those that stand beside each other.

    ``values`` are None where a category has no such bar.
    """

    label: str
    style: Style
    values: list[float | None]
    ci: list[Interval] | None = None


@dataclass(frozen=True)
class Bars:
    """Bars by category, stacked or side by side; ``guide`` is a value to compare them with.

    ``left_out`` tells of runs that are in no bar.
    """

    kind: ClassVar[str] = "bars"
    name: str
    title: str
    value_label: str
    categories: list[str]
    parts: list[Part]
    stacked: bool = False
    note: str = ""
    rate: str = ""
    guide: float | None = None
    left_out: str = ""

    def rows(self) -> Iterator[list[Cell]]:
        """A head and a row for each bar."""
        yield ["category", "bar", self.value_label, "low", "high"]
        for i, category in enumerate(self.categories):
            for part in self.parts:
                if part.values[i] is not None:
                    low, high = (part.ci[i] if part.ci else None) or (None, None)
                    yield [category, part.label, part.values[i], low, high]


@dataclass(frozen=True)
class Grid:
    """Values by column and row, ``values[row][column]``, None where there is nothing.

    ``scale`` says what colours mean: ``score`` from 0 to 1, or ``verdict``: -1, 0 and 1 for worse,
    not told apart and better. ``texts`` stand in the cells and ``details`` where they are pointed
    at.
    """

    kind: ClassVar[str] = "grid"
    name: str
    title: str
    x_label: str
    y_label: str
    columns: list[str]
    lines: list[str]
    values: list[list[float | None]]
    texts: list[list[str]]
    details: list[list[str]]
    scale: str = "score"
    note: str = ""
    rate: str = ""

    def rows(self) -> Iterator[list[Cell]]:
        """A head and a row for each cell that holds something."""
        yield [self.y_label, self.x_label, "value", "text", "detail"]
        for i, line in enumerate(self.lines):
            for j, column in enumerate(self.columns):
                if self.values[i][j] is not None:
                    found: list[Cell] = [self.values[i][j], self.texts[i][j], self.details[i][j]]
                    yield [line, column, *found]


Chart = Lines | Bars | Grid


def plain(chart: Chart) -> dict[str, Any]:
    """A chart as the page's script reads it."""
    return {"kind": chart.kind, **asdict(chart), "rows": [list(row) for row in chart.rows()]}
