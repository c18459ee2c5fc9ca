"""A chart as a PNG, with the colours, dashes and markers that it has in the page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from eval.report.page.chart import Bars, Chart, Grid, Lines
from eval.report.page.style import INK, MUTED, Style
from models.atomic import writing

DPI = 130
COLOURS = {INK: "#1a1a1a", MUTED: "#737373"}
DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (5, 1.5)), "dot": (0, (1.5, 1)), "dashdot": (0, (6, 2, 1, 2)),
}  # fmt: skip
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-down": "v", "triangle-up": "^",
    "pentagon": "p", "hexagon": "h", "cross": "P", "triangle-left": "<", "triangle-right": ">",
    "star": "*", "square-open": "s", "diamond-open": "D", "star-open": "*", "cross-open": "P",
    "x": "x",
}  # fmt: skip
# Okabe & Ito's vermilion and blue: worse and better, told apart by their letters as well.
VERDICTS = ListedColormap(["#f2b48c", "#f4f4f4", "#9cc9e8"])
HATCHES = {"solid": "", "dash": "//", "dot": "..", "dashdot": "xx"}
LETTERS = {-1: "W", 0: "~", 1: "B"}


def draw(chart: Chart, subject: str, path: Path) -> None:
    """Write the picture to ``path``; dollar signs are no mathematics here.

    Parameters
    ----------
    subject : what runs it shows, for the line above it; a picture travels alone.
    """
    with rc_context({"text.parse_math": False}):
        _draw(chart, subject, path)


def _draw(chart: Chart, subject: str, path: Path) -> None:
    figure = Figure(figsize=_size(chart), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if isinstance(chart, Lines):
        _lines(axes, chart)
    elif isinstance(chart, Bars):
        _bars(axes, chart)
    else:
        _grid(axes, chart)
    wide = int(9.5 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(chart.title, wide), x=0.01, ha="left", fontweight="bold", size=11)
    if subject:
        axes.set_title(textwrap.fill(subject, wide), fontsize=8, loc="left", x=0, color="0.3")
    with writing(path) as file:
        canvas.print_png(file)


def _size(chart: Chart) -> tuple[float, float]:
    if isinstance(chart, Bars):
        rows = len(chart.categories) * (1 if chart.stacked else max(1, len(chart.parts) / 2))
        return 8, 1.6 + 0.34 * max(rows, 3)
    if isinstance(chart, Grid):
        wide = 1.15 if chart.scale == "verdict" else 0.7
        return 2.4 + wide * max(len(chart.columns), 3), 1.4 + 0.5 * max(len(chart.lines), 3)
    return 8, 4.6


def _look(style: Style) -> dict[str, Any]:
    colour = COLOURS.get(style.colour, style.colour)
    hollow = style.symbol.endswith("-open")
    return {
        "color": colour,
        "linestyle": DASHES[style.dash],
        "marker": MARKERS[style.symbol],
        "markerfacecolor": "white" if hollow else colour,
        "ms": 9 if "star" in style.symbol else 5,
    }


def _lines(axes: Axes, chart: Lines) -> None:
    named = {line.label for line in chart.lines}
    for label, style, height in chart.guides:
        look, shown = _look(style), "_" if label in named else label
        axes.axhline(height, color=look["color"], linestyle=look["linestyle"], lw=1, label=shown)
    for line in chart.lines:
        look = _look(line.style)
        axes.plot(line.x, line.y, label=line.label, lw=1.5, **look)
        faint = {"color": look["color"], "alpha": 0.45, "lw": 1}
        for y, x, ends in zip(line.y, line.x, line.x_ci, strict=False):
            if ends:
                axes.hlines(y, ends[0], ends[1], **faint)
            if line.y_ci and (up := line.y_ci[line.x.index(x)]):
                axes.vlines(x, up[0], up[1], **faint)
        known = [(x, y) for x, y in zip(line.limits, line.y, strict=False) if x is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "|", color=look["color"], ms=8, mew=1.5)
    if any(limit is not None for line in chart.lines for limit in line.limits):
        axes.plot([], [], "|", color=COLOURS[INK], ms=8, mew=1.5, label="FLOP limit")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.log_y:
        axes.set_yscale("log")
    _plain(axes, "y")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _bars(axes: Axes, chart: Bars) -> None:
    places = np.arange(len(chart.categories), dtype=float)
    left, height = np.zeros(len(places)), 0.7 / (1 if chart.stacked else len(chart.parts))
    for number, part in enumerate(chart.parts):
        values = np.array([0.0 if v is None else v for v in part.values])
        colour = COLOURS.get(part.style.colour, part.style.colour)
        shift = 0 if chart.stacked else (number - (len(chart.parts) - 1) / 2) * height
        look: dict[str, Any] = {
            "color": colour,
            "hatch": HATCHES[part.style.dash],
            "edgecolor": "white",
            "lw": 0,
        }
        axes.barh(places + shift, values, height, left=left, label=part.label, **look)
        left = left + values if chart.stacked else left
    if chart.guide is not None:
        axes.axvline(chart.guide, color=COLOURS[INK], linestyle="--", lw=1)
    axes.set_yticks(places, chart.categories, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(chart.value_label)
    _plain(axes, "x")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _grid(axes: Axes, chart: Grid) -> None:
    cells = np.ma.masked_invalid(np.array(chart.values, dtype=float))
    verdicts = chart.scale == "verdict"
    colours = VERDICTS if verdicts else colormaps["cividis"]
    axes.imshow(cells, cmap=colours, vmin=-1 if verdicts else 0, vmax=1, aspect="auto")
    for row, column in np.ndindex(cells.shape):
        if cells.mask is not np.ma.nomask and np.ma.getmaskarray(cells)[row, column]:
            continue
        value, text = cells[row, column], chart.texts[row][column]
        if verdicts:
            text = f"{LETTERS[int(value)]}  {text}"
        ink = "black" if verdicts or value > 0.55 else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(chart.columns)), chart.columns, fontsize=8)
    axes.set_yticks(range(len(chart.lines)), chart.lines, fontsize=8)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for place, count in ((axes.set_xticks, cells.shape[1]), (axes.set_yticks, cells.shape[0])):
        place(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)  # seams keep neighbours apart
    axes.tick_params(which="minor", length=0)


def _plain(axes: Axes, along: Any) -> None:
    axes.grid(axis=along, color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
