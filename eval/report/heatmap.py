"""The needle test as a picture: mean score by context length and depth, and its numbers."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eval.analysis.finite import require_finite
from models.atomic import writing

# Even to the eye and to the colour-blind: dark blue is 0, yellow is 1.
COLOURS = "cividis"
CELLS_WITH_NUMBERS = 150
TICKS = 12
DPI = 150


def draw(records: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Write the picture to ``path`` (PNG) and ``numbers`` beside it, as ``.json``.

    Lengths run to the right, depths down from 0%; colours mean the same in every picture. A cell
    without an item is hatched grey. ``records`` must hold at least one item.
    """
    table = numbers(records)
    cells = np.array(table["scores"], dtype=float)  # None, a cell without items, becomes nan
    rows, columns = cells.shape
    width = 2.6 + 0.62 * min(max(columns, 4), 20)
    height = 1.9 + 0.42 * min(max(rows, 4), 20)
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(
        np.ma.masked_invalid(cells), cmap=COLOURS, vmin=0, vmax=1, aspect="auto", origin="upper"
    )
    _mark(axes, cells)
    _label(axes, table)
    bar = figure.colorbar(image, ax=axes, label="mean score", ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    figure.suptitle(textwrap.fill(title, int(10 * width)), fontsize=11, fontweight="bold")
    axes.set_title(f"n = {table['n']}, mean score {table['mean']:.2f}", fontsize=9)
    with writing(path) as file:
        canvas.print_png(file)
    with writing(path.with_suffix(".json")) as file:
        file.write(json.dumps({"title": title, **table}, indent=2).encode() + b"\n")


def numbers(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the picture shows: ``lengths``, ``depths`` (percent) and mean ``scores`` from 0 to 1.

    ``scores[i][j]`` and ``counts[i][j]`` are those of depth i and length j; the score is None where
    no item is. ``n`` and ``mean`` are over all items.
    """
    cells: dict[tuple[float, int], list[float]] = {}
    for record in records:
        cell = (record["depth"], record["context_length"])
        require_finite([*cell, record["score"]], "depth, length or score of a needle")
        cells.setdefault(cell, []).append(record["score"] / 100)
    depths, lengths = (sorted(set(side)) for side in zip(*cells, strict=True))
    found = [[cells.get((depth, length), []) for length in lengths] for depth in depths]
    return {
        "lengths": lengths,
        "depths": depths,
        "scores": [[sum(s) / len(s) if s else None for s in row] for row in found],
        "counts": [[len(s) for s in row] for row in found],
        "n": len(records),
        "mean": sum(map(sum, cells.values())) / len(records),
    }


def _mark(axes: Axes, cells: np.ndarray) -> None:
    """Hatch the cells without items, and write the scores into the others of a small grid."""
    for row, column in np.ndindex(cells.shape):
        value = cells[row, column]
        if np.isnan(value):
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, facecolor="0.88", edgecolor="0.6", hatch="///", lw=0)
            )
        elif cells.size <= CELLS_WITH_NUMBERS:
            red, green, blue, _ = colormaps[COLOURS](value)
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if bright else "white",
            )


def _label(axes: Axes, table: dict[str, Any]) -> None:
    lengths, depths = table["lengths"], table["depths"]
    every = -(-len(lengths) // TICKS)
    columns = range(0, len(lengths), every)
    axes.set_xticks(columns, [str(lengths[i]) for i in columns], fontsize=8)
    if len(columns) > 6:
        axes.tick_params(axis="x", labelrotation=45)
    every = -(-len(depths) // TICKS)
    rows = range(0, len(depths), every)
    axes.set_yticks(rows, [f"{depths[i]:.3g}%" for i in rows], fontsize=8)
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel("depth of the needle")
    axes.spines[:].set_visible(False)
    # White seams keep neighbours of equal score apart.
    axes.set_xticks(np.arange(len(lengths) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(depths) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=0.8)
    axes.tick_params(which="minor", length=0)
