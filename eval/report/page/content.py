"""Everything that the page shows, as plain data: tables, charts, items, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from eval.analysis.measures import method, rate, selector
from eval.folder import digest
from eval.report.figures import report
from eval.report.groups import common, grouped
from eval.report.layout import heading
from eval.report.page import overview
from eval.report.page.bars import anatomy, suites
from eval.report.page.chart import Chart
from eval.report.page.collect import Found
from eval.report.page.curves import layers, pareto
from eval.report.page.needle import heatmaps
from eval.report.page.style import Style, styles
from eval.report.page.tokens import Explorer
from eval.report.page.versus import matrices

# Where methods without a rate, and those that are not the users' question, stand in every list.
FIRST = ("no", "full", "cat")
SECTIONS = ("pareto", "anatomy", "needle", "versus", "layers")


def content(found: Found, explorer: Explorer) -> dict[str, Any]:
    """What the page is made from.

    Parameters
    ----------
    found : what ``collect.collect`` returned.

    Returns
    -------
    dict with ``runs`` (rows of the overview), ``groups`` (runs side by side with their charts and
    items), ``suites`` (charts over several datasets), and ``left_out``, ``unfinished``, ``failed``.
    """
    groups, replaced = grouped(found.results)
    groups = sorted((sorted(group, key=order) for group in groups), key=_place)
    looks = styles((method(r), r["oracle"]) for group in groups for r in group)
    titles = _titles(groups)
    runs: list[dict[str, Any]] = []
    shown = []
    for results, title in zip(groups, titles, strict=True):
        ids = [f"r{len(runs) + i}" for i in range(len(results))]
        pairs = zip(results, ids, strict=True)
        runs += [overview.run(result, name, found.gates) for result, name in pairs]
        shown.append(_group(results, ids, title, looks, explorer))
    return {
        "runs": runs,
        "groups": shown,
        "suites": suites(found.results, looks),
        "left_out": [*found.damaged, *replaced],
        "unfinished": found.unfinished,
        "failed": found.failed,
        "samples": sum(r["note"] is not None for r in found.results),
    }


def charts(page: dict[str, Any]) -> Iterator[tuple[Chart, str]]:
    """All charts of a page, and what its title does not say of the runs that each is of."""
    yield from ((chart, chart.left_out) for chart in page["suites"])
    for group in page["groups"]:
        subject = group["title"] + (
            " · BUILT-IN SAMPLE, NOT THE BENCHMARK" if group["note"] else ""
        )
        yield from ((chart, subject) for name in SECTIONS for chart in group[name])


def order(result: dict[str, Any]) -> tuple[Any, ...]:
    """The full prefill, methods without a rate, the control, the others by name, the oracles."""
    name, own = method(result), selector(result).partition(":")[0]
    rank = FIRST.index(own) if own in FIRST else len(FIRST) + (own != "random")
    return (result["oracle"], rank, name, rate(result) or 0.0)


def _place(group: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """Built-in samples last, so that the page opens with something else where there is any."""
    config, sample = group[0]["config"], group[0]["note"] is not None
    return (sample, config["model"], config["dataset"], len(group[0]["items"]), digest(config))


def _titles(groups: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """A name for each group, with a hash where two would be called the same."""
    names = []
    for group in groups:
        config, chunking = group[0]["config"], group[0]["config"]["chunking"]
        cut = chunking["chunking"] + " chunks"
        if chunking["chunking"] == "token":
            cut = f"chunks of {chunking['chunk_size']}"
        loads = "" if config["cold"] else ", sweep"
        items = f"{len(group[0]['items'])} items"
        names.append(f"{config['model']} · {config['dataset']} · {items}, {cut}{loads}")
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({_key(group[0])})"
        for name, group in zip(names, groups, strict=True)
    ]


def _key(result: dict[str, Any]) -> str:
    """A hash over what a group's runs have in common."""
    return digest(common(result))[:6]


def _group(
    results: list[dict[str, Any]],
    ids: list[str],
    title: str,
    looks: dict[str, Style],
    explorer: Explorer,
) -> dict[str, Any]:
    found = report(results)
    config = results[0]["config"]
    slug = f"{config['model']}-{config['dataset']}-{_key(results[0])}"
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", slug)
    return {
        "title": title,
        "runs": ids,
        "colours": [looks[method(result)].colour for result in results],
        "note": found["note"],
        "heading": [line for line in heading(found)[-2:] if line],
        "pareto": pareto(found, slug, looks, ids),
        "anatomy": anatomy(results, slug),
        "needle": heatmaps(results, slug),
        "versus": matrices(results, slug) if len(results) > 1 else [],
        "layers": layers(found, slug, looks, ids),
        "explorer": explorer.items(results, ids),
    }
