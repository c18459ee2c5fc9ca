"""A sweep as a picture: distance from the full prefill and score against the recompute ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.analysis.finite import require_finite
from eval.analysis.measures import ROUNDING, selector_of
from models.atomic import writing

# Okabe & Ito's colours without yellow, which is too pale for a line on white; past six methods
# the dashes and markers tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
MARKERS = "osD^vPXph<>d"
CONTROL = {"color": "0.45", "marker": "x", "lw": 2.2}
CONTROLS = ((0, (1, 1)), (0, (3, 1)), "-")  # dashes, where there are several, as one a codec
ORACLES = ({"marker": "*"}, {"marker": "+"})
RATELESS = {"full": ("full reuse", "--"), "cat": ("cat", ":"), "no": ("full prefill", "-")}
# Share of the square-root axis over which the methods' intervals at one rate stand side by side.
SPREAD = 0.045
DPI = 150


def draw(sweep: dict[str, Any], path: Path) -> None:
    """Write the picture to ``path`` (PNG): a line per method, with 95% intervals.

    Rates run along a square-root axis, since most of them are small; methods are shifted sideways a
    little, so that their intervals at one rate stand apart. Distances are on a logarithmic axis
    where they span a factor of ten; what lies below it, as r = 1 does, is drawn on its edge.

    Parameters
    ----------
    sweep : what ``grid.content`` returned.
    """
    require_finite(sweep["rows"], "a row of the sweep")
    figure = Figure(figsize=(12.5, 5), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    lines = _lines(sweep["rows"])
    floor = _floor(sweep["rows"])
    _panel(left, sweep, lines, "kl_mean", floor)
    _panel(right, sweep, lines, "score", None)
    left.set_ylabel("KL along the full prefill's answer (nats)")
    right.set_ylabel(f"{sweep['metric'] or 'score'} (out of 100)")
    right.set_title("Score", fontsize=10)
    title = "Distance from the full prefill"
    if floor is None:
        left.set_ylim(bottom=0)
    else:
        left.set_yscale("log")
        left.set_ylim(bottom=floor)
        title += " (on the lower edge: less than that)"
    left.set_title(title, fontsize=10)
    handles = {line.get_label(): line for axes in (right, left) for line in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8)
    note = f"*** {sweep['note']} ***\n" if sweep["note"] else ""
    config = sweep["config"]
    figure.suptitle(
        f"{note}{config['model']} on {config['dataset']}, n = {sweep['n']}; "
        "bars: 95% bootstrap over items",
        fontsize=11,
        fontweight="bold",
    )
    with writing(path) as file:
        canvas.print_png(file)


def _lines(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each method with a rate is drawn; the control and the oracles unlike the others."""
    styles: dict[str, dict[str, Any]] = {}
    plain = bounds = controls = 0
    for row in rows:
        name = row["method"]
        if row["rate"] is None or name in styles:
            continue
        if row["oracle"]:
            thin = {"color": "0.2", "linestyle": (0, (6, 2, 1, 2)), "lw": 1, "ms": 9}
            styles[name] = {**thin, **ORACLES[bounds % 2], "label": f"{name} (bound)"}
            bounds += 1
        elif selector_of(name).partition(":")[0] == "random":
            dashes = CONTROLS[controls % len(CONTROLS)]
            styles[name] = {**CONTROL, "linestyle": dashes, "label": f"{name} (control)"}
            controls += 1
        else:
            styles[name] = {
                "color": COLOURS[plain % len(COLOURS)],
                "linestyle": DASHES[plain // len(COLOURS) % len(DASHES)],
                "marker": MARKERS[plain % len(MARKERS)],
                "lw": 1.6,
                "ms": 4.5,
                "label": name,
            }
            plain += 1
    return styles


def _levels(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each method without a rate is drawn: black by itself, coloured with more to its name.

    The full prefill itself is a line of its own.
    """
    styles: dict[str, dict[str, Any]] = {}
    more = 0
    for row in rows:
        name, own = row["method"], selector_of(row["method"])
        if row["rate"] is not None or name == "no":
            continue
        label, dashes = RATELESS.get(own, (own, (0, (5, 1, 1, 1))))
        label += name.removeprefix(own)
        styles[name] = {"color": "black", "linestyle": dashes, "lw": 1.2, "label": label}
        if name != own:
            styles[name]["color"] = COLOURS[more % len(COLOURS)]
            more += 1
    return styles


def _floor(rows: list[dict[str, Any]]) -> float | None:
    """Lower edge of a logarithmic axis for the distances; None where a linear one does."""
    known = [r["kl_mean"] for r in rows if r["kl_mean"] is not None and r["kl_mean"] > ROUNDING]
    if not known or max(known) < 10 * min(known):
        return None
    below_full = [
        r["kl_mean"]
        for r in rows
        if r["kl_mean"] is not None and r["kl_mean"] > ROUNDING and r["rate"] not in (None, 1)
    ]
    return min(below_full or known) / 3


def _panel(
    axes: Axes,
    sweep: dict[str, Any],
    lines: dict[str, dict[str, Any]],
    measure: str,
    floor: float | None,
) -> None:
    rates = sweep["rates"]
    axes.set_xscale("function", functions=(_root, _square))
    axes.set_xticks(rates, [f"{r:g}" for r in rates], fontsize=8)
    if rates:
        axes.set_xlim(_square(_root(rates[0]) - 0.04), _square(_root(rates[-1]) + 0.04))
    axes.set_xlabel("recompute ratio r (square-root axis)")
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if measure == "score" and sweep["full_score"] is not None:
        axes.axhline(sweep["full_score"], color="black", lw=1.2, label="full prefill")
    levels = _levels(sweep["rows"])
    for row in sweep["rows"]:
        if row["method"] in levels and row[measure] is not None:
            axes.axhline(row[measure], **levels[row["method"]])
    for place, (name, style) in enumerate(lines.items()):
        rows = [r for r in sweep["rows"] if r["method"] == name and r[measure] is not None]
        if not rows:
            continue
        rows.sort(key=lambda row: float(row["rate"]))
        values = np.array([[row[measure], *row[f"{measure}_ci95"]] for row in rows])
        middle, low, high = (values if floor is None else np.maximum(values, floor)).T
        aside = SPREAD * ((place + 0.5) / len(lines) - 0.5)
        x = [_square(_root(row["rate"]) + aside) for row in rows]
        axes.vlines(x, low, high, color=style["color"], alpha=0.5, lw=1)
        axes.plot(x, middle, clip_on=False, **style)


def _root(r: Any) -> Any:
    """Square root that goes on below 0, where the axis has its margin."""
    return np.sign(r) * np.sqrt(np.abs(r))


def _square(x: Any) -> Any:
    return np.sign(x) * np.square(x)
