"""Bars: what a TTFT is made of, and scores by group of a benchmark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.measures import at, method, rate, rates
from eval.folder import digest
from eval.report.figures import name
from eval.report.groups import common
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
# In which datasets of one benchmark differ, and stand in one chart all the same.
OF_DATASET = ("dataset", "version", "entry", "source", "inputs", "items", "max_new_tokens")
OF_PROMPT = ("chat", "sink")


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


class Place(NamedTuple):
    """What the bars of one chart have in common; ``key`` is a hash over all of it."""

    model: str
    suite: str
    settings: str
    key: str


def suites(results: Sequence[dict[str, Any]], styles: dict[str, Style]) -> list[Bars]:
    """Scores by group of LongBench, and by task of RULER, of each model: methods side by side.

    A bar is the mean over the group's datasets that ran with this method; they weigh alike. What
    ran with other settings is another chart, as is each rate.

    Parameters
    ----------
    results : as ``result.json`` holds them, the latest last. styles : by method, in their order.
    """
    places: dict[Place, list[dict[str, Any]]] = {}
    for result in results:
        if result["suite"] in SUITES and result["score"] is not None:
            places.setdefault(_place(result), []).append(result)
    alike = Counter(place[:-1] for place in places)
    found = []
    for place, some in sorted(places.items(), key=lambda one: one[0]):
        kept, left_out = _latest(some)
        title = f"{SUITES[place.suite]}: {place.model}, {place.settings}"
        title += f" ({place.key[:6]})" if alike[place[:-1]] > 1 else ""
        wanted_rates: list[float | None] = [*rates(kept)] or [None]
        for wanted in wanted_rates:
            found.append(_suite(place, title, left_out, at(kept, wanted), wanted, styles))
    return found


def _place(result: dict[str, Any]) -> Place:
    config, recipe = result["config"], result["inputs"].get("recipe", {})
    chunking = config["chunking"]
    cut = f"{chunking['chunking']} chunks"
    if chunking["chunking"] == "token":
        cut = f"chunks of {chunking['chunk_size']} tokens"
    more = [f"up to {chunking['max_length']} tokens", str(config["dtype"])]
    if not config["cold"]:
        more.append("sweep")
    asked = {key: recipe.get(key) for key in ("skip", "limit")} | recipe.get("generation", {})
    more += [f"{key.upper()}={_text(value)}" for key, value in asked.items() if value]
    if result["note"]:
        more.append("BUILT-IN SAMPLES")
    settings = ", ".join([cut, *more])
    alike = common(result)
    shared = {key: value for key, value in alike["config"].items() if key not in OF_DATASET}
    shared["chunking"] = {key: value for key, value in chunking.items() if key not in OF_PROMPT}
    key = digest([shared, alike["machine"], asked])
    return Place(config["model"], result["suite"], settings, key)


def _text(value: Any) -> str:
    """A setting's value as Make takes it."""
    return f"{' '.join(map(str, value))!r}" if isinstance(value, list) else str(value)


def _latest(results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Of each dataset the runs of its latest group, and a line on those left out."""
    last = {result["config"]["dataset"]: common(result) for result in results}
    kept, others = [], []
    for result in results:
        dataset = result["config"]["dataset"]
        if common(result) == last[dataset]:
            kept.append(result)
        else:
            others.append(f"{dataset} ({result['n']} items)")
    named = ", ".join(dict.fromkeys(others))
    why = "since a later run has other items or prompts"
    return kept, f"Left out, {why}: {named}." if others else ""


def _suite(
    place: Place,
    title: str,
    left_out: str,
    results: Sequence[dict[str, Any]],
    wanted: float | None,
    styles: dict[str, Style],
) -> Bars:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        dataset = result["config"]["dataset"]
        group = dataset if place.suite == "ruler" else result["group"]
        scores = table.setdefault(group, {}).setdefault(method(result), {})
        scores[dataset] = result["score"]  # the latest comes last
    ran = set(map(method, results))
    categories = sorted(table)
    parts = [
        Part(
            name,
            style,
            [
                float(np.mean([*table[c][name].values()])) if name in table[c] else None
                for c in categories
            ],
        )
        for name, style in styles.items()
        if name in ran
    ]
    shown = "" if wanted is None else f"{wanted:g}"
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([*place, shown]))
    return Bars(
        f"suite-{slug}",
        title + (f", rate {shown}" if shown else ""),
        "score (out of 100)",
        categories,
        parts,
        note=SUITE,
        rate=shown,
        left_out=left_out,
    )


def run_name(result: dict[str, Any]) -> str:
    """Method and rate of a result."""
    return name({"method": method(result), "rate": rate(result)})
