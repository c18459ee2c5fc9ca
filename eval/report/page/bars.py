"""Bars: what a TTFT is made of, and scores by group of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
SUITES = {
    "longbench": "LongBench", "longbench-e": "LongBench-E", "ruler": "RULER", "needle": "Needle",
}  # fmt: skip


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
            Part(part, Style(colour), [r[key][part] for r in timed])
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
    ran with other settings is another chart.
    """
    tables: dict[tuple[str, ...], dict[str, dict[str, list[float]]]] = {}
    looks: dict[str, Style] = {}
    for results in groups:
        for result in results:
            suite = result["suite"]
            if suite in ("longbench", "longbench-e", "ruler") and result["score"] is not None:
                table = tables.setdefault(_place(result), {})
                group = result["config"]["dataset"] if suite == "ruler" else result["group"]
                bars = table.setdefault(group, {})
                bars.setdefault(run_name(result), []).append(result["score"])
                looks[run_name(result)] = styles[result["config"]["method"]]
    return [_suite(place, table, looks) for place, table in sorted(tables.items())]


def _place(result: dict[str, Any]) -> tuple[str, ...]:
    """Model, suite and settings: what the bars of one chart have in common."""
    config = result["config"]
    chunking = config["chunking"]
    cut = f"{chunking['chunking']} chunks"
    if chunking["chunking"] == "token":
        cut = f"chunks of {chunking['chunk_size']} tokens"
    more = [f"up to {chunking['max_length']} tokens", str(config["dtype"])]
    if result["note"]:
        more.append("BUILT-IN SAMPLES")
    return (config["model"], result["suite"], ", ".join([cut, *more]))


def _suite(
    place: tuple[str, ...], table: dict[str, dict[str, list[float]]], looks: dict[str, Style]
) -> Bars:
    model, suite, settings = place
    names = list(dict.fromkeys(name for bars in table.values() for name in bars))
    categories = sorted(table)
    parts = [
        Part(
            label,
            looks[label],
            [float(np.mean(table[c][label])) if label in table[c] else None for c in categories],
        )
        for label in names
    ]
    counts = {len(scores) for bars in table.values() for scores in bars.values()}
    note = "" if counts == {1} else "A bar is the mean over the group's datasets, weighed alike."
    slug = "-".join(place).replace(" ", "-").replace(",", "")
    title = f"{SUITES[suite]}: {model}, {settings}"
    return Bars(f"suite-{slug}", title, "score (out of 100)", categories, parts, note=note)


def run_name(result: dict[str, Any]) -> str:
    """Method and rate of a result."""
    config = result["config"]
    return name({"method": config["method"], "rate": config["options"].get("rate")})
