"""Perplexity against the share of rows that stay, a line a policy, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.analysis.finite import require_finite
from eval.report.curves import COLOURS, DASHES, DPI, MARKERS
from models.atomic import writing
from models.eviction import NONE


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Write the picture to ``path``.

    Bars are 95% intervals of the difference from nothing evicted, put around each point: passages
    differ much more from each other than policies do on one passage. The axis of perplexity is
    logarithmic, so that a difference in nats has the same height everywhere.
    """
    require_finite(rows, "a row of the perplexities")
    (whole,) = [row for row in rows if row["policy"] == NONE]
    figure = Figure(figsize=(8.5, 5), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(whole["ppl"], color="black", lw=1.2, label="nothing evicted")
    names = [name for name in dict.fromkeys(row["policy"] for row in rows) if name != NONE]
    shares = sorted({row["keep"] for row in rows} - {1.0}, reverse=True)
    for number, name in enumerate(names):
        own = [row for row in rows if row["policy"] == name and row["keep"] < 1]
        if not own:
            continue
        aside = 0.25 * ((number + 0.5) / len(names) - 0.5)
        x = [shares.index(row["keep"]) + aside for row in own]
        colour = COLOURS[number % len(COLOURS)]
        low, high = ([whole["ppl"] * exp(row["nats_ci95"][end]) for row in own] for end in (0, 1))
        axes.vlines(x, low, high, color=colour, alpha=0.5, lw=1)
        axes.plot(
            x,
            [row["ppl"] for row in own],
            color=colour,
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
            lw=1.6,
            ms=4.5,
            label=name,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
    axes.set_xlabel("share of the context's rows that stay")
    axes.set_ylabel("perplexity of what follows")
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    with writing(path) as file:
        canvas.print_png(file)
