"""The map: distance from the full prefill against time, a panel a context, a line a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.analysis.measures import ROUNDING, Results, corrector, rate, selector
from eval.report.curves import COLOURS, MARKERS
from eval.study.claims import OURS
from models.atomic import writing

DPI = 150
OWN = {"color": "black", "lw": 2.6, "marker": "*", "ms": 9, "zorder": 5}
CONTROL = {"color": "0.6", "lw": 1.2, "marker": "x", "ms": 4}


def draw(models: Mapping[str, Results], path: Path) -> None:
    """Write the picture to ``path`` (PNG): a row of panels a model.

    Across runs the TTFT with KVs in memory, as a share of the full prefill's; upwards the mean KL
    along the answer with its 95% interval, on a logarithmic axis. A line joins a method's rates;
    dashed where the other rows are corrected.
    """
    contexts = list(dict.fromkeys(str(r["config"]["context"]) for r in _fused(models)))
    figure = Figure(
        figsize=(4.6 * len(contexts) + 1.6, 4.2 * len(models) + 0.4), dpi=DPI, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(models), len(contexts), sharex="row", sharey="row", squeeze=False)
    names = sorted({selector(r) for r in _fused(models)} - {OURS, "random"})
    styles = {name: _style(place) for place, name in enumerate(names)}
    styles |= {OURS: OWN, "random": CONTROL}
    for row, (model, results) in zip(grid, models.items(), strict=True):
        for axes, context in zip(row, contexts, strict=True):
            here = [r for r in results if r["config"]["context"] == context]
            _panel(axes, here, styles)
            axes.set_title(f"{model}: chunks captured behind {context}", fontsize=9)
        row[0].set_ylabel("KL along the answer (nats)")
    for axes in grid[-1]:
        axes.set_xlabel("TTFT, % of the full prefill's")
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    shown = {name: line for name, line in handles.items() if not name.startswith("_")}
    figure.legend(shown.values(), shown.keys(), loc="outside right center", fontsize=8)
    figure.suptitle("Lower and further left is better; dashed: other rows corrected", fontsize=10)
    with writing(path) as file:
        canvas.print_png(file)


def _fused(models: Mapping[str, Results]) -> list[dict]:
    return [r for results in models.values() for r in results if r["config"]["context"]]


def _style(place: int) -> dict:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    return {"color": colour, "lw": 1.5, "marker": marker, "ms": 4}


def _panel(axes: Axes, results: Results, styles: dict[str, dict]) -> None:
    lines: dict[tuple[str, str], list] = {}
    for result in results:
        lines.setdefault((selector(result), corrector(result)), []).append(result)
    for (name, corrected), runs in lines.items():
        runs = sorted(runs, key=lambda result: rate(result) or 0.0)
        x = [100 / r["speedup"]["ready"] for r in runs]
        y = [max(r["kl_mean"], ROUNDING) for r in runs]
        ends = [[max(end, ROUNDING) for end in r["kl_mean_ci95"]] for r in runs]
        dashed = "--" if corrected != "none" else "-"
        axes.plot(
            x,
            y,
            linestyle=dashed,
            label=name if corrected == "none" or name == OURS else None,
            **styles[name],
        )
        for at, (low, high) in zip(x, ends, strict=True):
            axes.plot(
                [at, at], [low, high], color=styles[name]["color"], lw=0.6, alpha=0.6, label="_"
            )
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
