"""Time to first token against prompt length, on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from models.atomic import writing

DPI = 150


class Style(NamedTuple):
    """How one curve looks: colours of Okabe and Ito, told apart without them by marker and dash."""

    colour: str
    marker: str
    dash: str


LIBRARY = Style("#000000", "o", "-")
OURS = Style("#0072B2", "s", "-")
LLAMA = Style("#CC79A7", "v", "-")
COLD = Style("#D55E00", "^", "-")
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
    figure = Figure(figsize=(7.2, 4.8), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    def plot(label: str, style: Style, chosen: Sequence[dict[str, Any]], key: str) -> None:
        known = [row for row in chosen if row[key] is not None]
        if known:
            middle = [row[key] for row in known]
            low, high = zip(*(row[f"{key}_spread"] for row in known), strict=True)
            bars = [
                [max(0, m - x) for m, x in zip(middle, low, strict=True)],
                [max(0, x - m) for m, x in zip(middle, high, strict=True)],
            ]
            axes.errorbar(
                [row["n"] for row in known],
                middle,
                yerr=bars,
                label=label,
                color=style.colour,
                marker=style.marker,
                linestyle=style.dash,
                markersize=5,
                linewidth=1.5,
                capsize=2,
            )

    plot("full prefill, transformers", LIBRARY, fused, "library_full_ms")
    plot("full prefill, kvfuse", OURS, fused, "full_ms")
    plot("full prefill, llama.cpp, quantised", LLAMA, fused, "llamacpp_full_ms")
    plot(f"{method}, r = {rate:g}, cold", COLD, fused, "cold_ms")
    plot(f"{method}, r = {rate:g}, ready", READY, fused, "ready_ms")
    axes.plot(
        [row["n"] for row in fused],
        [row["full_ms"] / row["flop_limit"] for row in fused],
        label="its FLOP limit",
        color=LIMIT.colour,
        linestyle=LIMIT.dash,
        linewidth=1.5,
    )
    if method != "full":
        plot("full reuse, ready", REUSE, _of(rows, "full", rate), "ready_ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([row["n"] for row in fused], [f"{row['n']:,}" for row in fused])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("prompt length N (tokens)")
    axes.set_ylabel("time to first token (ms)")
    axes.set_title(title, fontsize=10)
    axes.grid(which="major", color="0.85", linewidth=0.8)
    axes.grid(which="minor", axis="y", color="0.93", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    with writing(path) as file:
        canvas.print_png(file)


def _of(rows: Sequence[dict[str, Any]], method: str, rate: float) -> list[dict[str, Any]]:
    chosen = [row for row in rows if row["method"] == method and row["rate"] == rate]
    return sorted(chosen, key=lambda row: row["n"])
