"""Time to first token against prompt length, on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from models.atomic import writing

DPI = 150


class Style(NamedTuple):
    """How one curve looks: colours of Okabe and Ito, told apart without them by marker and dash."""

    colour: str
    marker: str
    dash: str


LIBRARY = Style("#000000", "o", "--")
OURS = Style("#0072B2", "s", "-")
LLAMA = Style("#CC79A7", "v", "-")
COLD = Style("#D55E00", "^", "--")
READY = Style("#E69F00", "D", "-")
REUSE = Style("#009E73", "P", "-")
LIMIT = Style("#666666", "", ":")


def draw(rows: Sequence[dict[str, Any]], method: str, rate: float, title: str, path: Path) -> None:
    """Write the picture to ``path`` (PNG): the full prefills, and ``method`` ready and cold.

    ``rows`` are those of ``bench.json``; bars go from the fastest to the slowest round. The dotted
    line is the time that ``method`` would take if it ran its arithmetic as fast as our full prefill
    runs its own.
    """
    fused = _of(rows, method, rate)
    figure = Figure(figsize=(9.0, 4.8), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _curve(axes, "full prefill, llama.cpp, quantised", LLAMA, fused, "llamacpp_full_ms")
    _curve(axes, "full prefill, transformers", LIBRARY, fused, "library_full_ms")
    _curve(axes, "full prefill, kvfuse", OURS, fused, "full_ms")
    label = f"{method}, r = {rate:g}"
    _curve(axes, f"{label}, cold", COLD, fused, "cold_ms")
    _curve(axes, f"{label}, ready", READY, fused, "ready_ms")
    limit = [{"n": row["n"], "limit": row["full_ms"] / row["flop_limit"]} for row in fused]
    _curve(axes, f"{label}, FLOP limit", LIMIT, limit, "limit")
    if method != "full":
        _curve(axes, "full reuse, ready", REUSE, _of(rows, "full", rate), "ready_ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([row["n"] for row in fused], [f"{row['n']:,}" for row in fused])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("prompt length N (tokens)")
    axes.set_ylabel("time to first token (ms)")
    axes.grid(color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    with writing(path) as file:
        canvas.print_png(file)


def _curve(axes: Axes, label: str, style: Style, rows: Sequence[dict[str, Any]], key: str) -> None:
    """One line of medians; bars where the rows have a spread; nothing where they lack the value."""
    known = [row for row in rows if row[key] is not None]
    if not known:
        return
    middle = [row[key] for row in known]
    spreads = [row.get(f"{key}_spread", [row[key]] * 2) for row in known]
    below = [value - low for value, (low, _) in zip(middle, spreads, strict=True)]
    above = [high - value for value, (_, high) in zip(middle, spreads, strict=True)]
    axes.errorbar(
        [row["n"] for row in known],
        middle,
        yerr=[below, above],
        label=label,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        markersize=5,
        linewidth=1.5,
        capsize=2,
    )


def _of(rows: Sequence[dict[str, Any]], method: str, rate: float) -> list[dict[str, Any]]:
    chosen = [row for row in rows if row["method"] == method and row["rate"] == rate]
    return sorted(chosen, key=lambda row: row["n"])
