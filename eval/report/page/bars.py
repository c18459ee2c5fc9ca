"""Bars: what a TTFT is made of, and scores by group of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.analysis.measures import at, method, rate, rates
from eval.report.figures import name
from eval.report.page.chart import Bars, Part
from eval.report.page.style import PARTS, Style

WHEN = {
    "ttft_parts_ready_ms": "Time to first token by part, KVs in memory",
    "ttft_parts_ms": "Time to first token by part, KVs read from disk",
}
ANATOMY = (
    "Parts of the item whose TTFT is the median (of the middle two, their mean), so that they sum "
    "to that median. The dashed line is the full prefill's median."
)
SUITES = {"longbench": "LongBench", "longbench-e": "LongBench-E", "ruler": "RULER"}
SUITE = (
    "LongBench by group of tasks, RULER by task. A bar is the mean over the datasets that have "
    "run, each weighing alike."
)


def anatomy(results: Sequence[dict[str, Any]], slug: str) -> list[Bars]:
    """Stacked parts of each run's TTFT; oracles have no times.

    Parameters
    ----------
    results : runs over the same items, as ``result.json`` holds them.
    """
    charts = []
    for key, title in WHEN.items():
        timed = [r for r in results if r[key] is not None and not r["oracle"]]
        if not timed or all(r["config"]["method"] == "no" for r in timed):
            continue
        stack = [
            Part(part, Style(colour), [r[key].get(part, 0.0) for r in timed])
            for part, colour in PARTS.items()
        ]
        label = "ms"
        charts.append(
            Bars(
                f"{slug}-{key.removesuffix('_ms').replace('_', '-')}",
                title,
                label,
                [run_name(r) for r in timed],
                stack,
                stacked=True,
                note=ANATOMY,
                guide=results[0]["full_prefill_ms"]["median"],
            )
        )
    return charts


def suites(groups: Sequence[Sequence[dict[str, Any]]], styles: dict[str, Style]) -> list[Bars]:
    """Scores by group of LongBench, and by task of RULER, of each model: methods side by side.

    A bar is the mean over the group's datasets that ran with this method; they weigh alike. What
    ran with other settings is another chart, as is each rate.
    """
    runs = [r for group in groups for r in group if r["suite"] in SUITES and r["score"] is not None]
    places: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in runs:
        places.setdefault(_place(result), []).append(result)
    found = []
    for place, some in sorted(places.items()):
        wanted_rates: list[float | None] = [*rates(some)] or [None]
        for wanted in wanted_rates:
            found.append(_suite(place, at(some, wanted), wanted, styles))
    return found


def _place(result: dict[str, Any]) -> tuple[str, ...]:
    """Model, suite and settings: what the bars of one chart have in common."""
    config = result["config"]
    chunking = config["chunking"]
    cut = f"{chunking['chunking']} chunks"
    if chunking["chunking"] == "token":
        cut = f"chunks of {chunking['chunk_size']} tokens"
    more = [f"up to {chunking['max_length']} tokens", str(config["dtype"])]
    if not config["cold"]:
        more.append("sweep")
    if result["note"]:
        more.append("BUILT-IN SAMPLES")
    return (config["model"], result["suite"], ", ".join([cut, *more]))


def _suite(
    place: tuple[str, ...],
    results: Sequence[dict[str, Any]],
    wanted: float | None,
    styles: dict[str, Style],
) -> Bars:
    model, suite, settings = place
    table: dict[str, dict[str, list[float]]] = {}
    for result in results:
        group = result["config"]["dataset"] if suite == "ruler" else result["group"]
        scores = table.setdefault(group, {}).setdefault(method(result), [])
        scores.append(result["score"])
    methods = list(dict.fromkeys(map(method, results)))
    categories = sorted(table)
    parts = [
        Part(
            name,
            styles[name],
            [float(np.mean(table[c][name])) if name in table[c] else None for c in categories],
        )
        for name in methods
    ]
    shown = "" if wanted is None else f"{wanted:g}"
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([*place, shown]))
    return Bars(
        f"suite-{slug}",
        f"{SUITES[suite]}: {model}, {settings}" + (f", rate {shown}" if shown else ""),
        "score (out of 100)",
        categories,
        parts,
        note=SUITE,
        rate=shown,
    )


def run_name(result: dict[str, Any]) -> str:
    """Method and rate of a result."""
    return name({"method": method(result), "rate": rate(result)})
