"""The map: distance from the full prefill against time, and what contexts and correctors change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from eval.analysis.measures import ROUNDING, Results, corrector, rate, selector
from eval.report.curves import COLOURS, MARKERS
from eval.study.claims import OURS, PUBLISHED_RATE, as_published
from eval.study.measured import Times, key
from models.atomic import writing
from models.selectors import selector_class

DPI = 90
OWN = {"color": "black", "lw": 3, "marker": "*", "ms": 11, "zorder": 5}
CONTROL = {"color": "0.6", "lw": 1.2, "ls": ":", "marker": "x", "ms": 4}


def draw(models: Mapping[str, Results], path: Path, times: Mapping[str, Times]) -> None:
    """Write the picture to ``path`` (PNG): a row of two panels a model.

    Left: methods as their authors have them, and ours. To the right the TTFT with KVs in memory,
    as a share of the full prefill's; upwards the mean KL along the answer with its 95% interval,
    both on logarithmic axes. Right: that KL at the rate of the claims, a line a method, behind each
    context and with each corrector.

    Parameters
    ----------
    times : by model; runs without one are left out on the left.
    """
    fused = {model: [r for r in runs if r["config"]["context"]] for model, runs in models.items()}
    names = sorted({selector(r) for results in fused.values() for r in results} - {OURS, "random"})
    styles = {name: _style(place) for place, name in enumerate(names)}
    styles |= {OURS: OWN, "random": CONTROL}
    figure = Figure(figsize=(12, 4.4 * len(models) + 0.4), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(models), 2, squeeze=False, width_ratios=(1.15, 1))
    for (left, right), (model, results) in zip(grid, fused.items(), strict=True):
        n = len(results[0]["items"]) if results else 0
        _curves(left, results, styles, times.get(model, {}))
        left.set_title(f"{model}, {n} items: methods as published, and {OURS}", fontsize=10)
        _cells(right, results)
    figure.suptitle("Distance from the full prefill: lower left is better", fontsize=12)
    with writing(path) as file:
        canvas.print_png(file)


def _style(place: int) -> dict:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    return {"color": colour, "lw": 1.5, "marker": marker, "ms": 4}


def _curves(axes: Axes, results: Results, styles: dict[str, dict], times: Times) -> None:
    """A line a method through its rates; the method's name beside its last one."""
    lines: dict[str, list] = {}
    for result in results:
        if key(result) not in times:
            continue
        if as_published(result):
            lines.setdefault(selector(result), []).append(result)
        elif (
            selector(result) == "full"
            and result["config"]["context"] == selector_class(OURS).context
        ):
            lines.setdefault(OURS, []).append(result)  # what ours is at r = 0
    for name, runs in lines.items():
        runs = sorted(runs, key=lambda result: rate(result) or 0.0)
        x = [times[key(r)] for r in runs]
        y = [max(r["kl_mean"], ROUNDING) for r in runs]
        ends = np.array([[max(e, ROUNDING) for e in r["kl_mean_ci95"]] for r in runs]).T
        axes.plot(x, y, label="full reuse" if name == "full" else name, **styles[name])
        axes.vlines(x, *ends, color=styles[name]["color"], lw=0.7, alpha=0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain(axes)
    axes.grid(alpha=0.25, which="both")
    axes.set_xlabel("TTFT, % of the full prefill's")
    axes.set_ylabel("KL along the answer (nats)")
    if lines:
        axes.legend(fontsize=8)


def _plain(axes: Axes) -> None:
    """Numbers as people write them, three a decade."""
    for axis, form in ((axes.xaxis, "{x:g}"), (axes.yaxis, "{x:g}")):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter(NullFormatter())


def _cells(axes: Axes, results: Results) -> None:
    """KL at the rate of the claims: methods downwards, contexts and correctors across."""
    here = [r for r in results if rate(r) in (None, PUBLISHED_RATE)]
    across = sorted(
        {(corrector(r), str(r["config"]["context"])) for r in here},
        key=lambda c: (
            c[0] != "none",
            ["sink", "prefix"].index(c[1]) if c[1] in ("sink", "prefix") else 9,
            c,
        ),
    )
    kl = {(selector(r), (corrector(r), str(r["config"]["context"]))): r["kl_mean"] for r in here}
    mean = {name: min(v for (s, _), v in kl.items() if s == name) for name, _ in kl}
    down = sorted(mean, key=mean.__getitem__, reverse=True)
    shown = np.array([[kl.get((name, column), np.nan) for column in across] for name in down])
    axes.imshow(shown, cmap="RdYlGn_r", norm=LogNorm(), aspect="auto", alpha=0.75)
    own = {(selector(r), str(r["config"]["context"])) for r in here if as_published(r)}
    for i, name in enumerate(down):
        for j, column in enumerate(across):
            if np.isfinite(shown[i, j]):
                strong = column[0] == "none" and (name, column[1]) in own
                axes.text(
                    j, i, f"{shown[i, j]:.3f}".lstrip("0"), ha="center", va="center", fontsize=9,
                    weight="bold" if strong else "normal",
                )  # fmt: skip
    axes.set_yticks(
        range(len(down)), ["full reuse" if n == "full" else n for n in down], fontsize=9
    )
    labels = [context + ("" if c == "none" else f"\n+ {c}") for c, context in across]
    axes.set_xticks(range(len(across)), labels, fontsize=9)
    axes.set_title(
        f"KL at r = {PUBLISHED_RATE:g} behind each context (bold: as published)",
        fontsize=10,
    )
