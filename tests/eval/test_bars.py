"""Bars of a benchmark on the page: a dataset counts once, and other settings are another chart."""

from __future__ import annotations

from typing import Any

import pytest

from eval.report.page.bars import Bars, suites
from eval.report.page.style import styles


def run(dataset: str, score: float, method: str = "debug", **told: Any) -> dict[str, Any]:
    """A run of LongBench; ``told`` goes to the configuration, the recipe or the result."""
    recipe = {"skip": 0, "limit": None, "generation": {}}
    config = {
        "model": "m",
        "dataset": dataset,
        "method": method,
        "options": {} if method == "no" else {"rate": 0.15},
        "inputs": f"items of {dataset}",
        "chunking": {"chunking": "token", "chunk_size": 512, "max_length": 8000, "chat": True},
        "dtype": "float32",
        "cold": True,
        "code": "today",
    }
    found = {
        "environment": {"device": "cpu"},
        "suite": "longbench",
        "group": "multi-doc QA",
        "score": score,
        "note": None,
        "n": 200,
    }
    for known in (recipe, config, found):
        known |= {key: value for key, value in told.items() if key in known}
    return {**found, "config": config, "inputs": {"recipe": recipe}}


def drawn(results: list[dict[str, Any]]) -> list[Bars]:
    return suites(results, styles((r["config"]["method"], False) for r in results))


def bars(chart: Bars) -> dict[str, list[float | None]]:
    return {part.label: part.values for part in chart.parts}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"limit": 5}, {"limit": 200}),
        ({"skip": 5}, {}),
        ({"code": "yesterday"}, {}),
        ({"environment": {"device": "another"}}, {}),
        ({"suite": "ruler", "generation": {"lengths": [4096]}}, {"suite": "ruler"}),
    ],
)
def test_other_settings_are_another_chart(one, other):
    charts = drawn([run("hotpotqa", 0.0, **one), run("hotpotqa", 60.0, **other)])
    assert sorted(bars(chart)["debug"] for chart in charts) == [[0.0], [60.0]]
    assert len({chart.title for chart in charts}) == len({chart.name for chart in charts}) == 2
    assert not any(chart.left_out for chart in charts)


def test_a_dataset_counts_once_with_its_latest_runs():
    """Methods stay side by side over the same items: the earlier run of ``full`` goes as well."""
    (chart,) = drawn(
        [
            run("hotpotqa", 0.0, inputs="earlier rows", n=150),
            run("hotpotqa", 90.0, "full", inputs="earlier rows", n=150),
            run("musique", 30.0),
            run("musique", 10.0, "full"),
            run("hotpotqa", 60.0),
        ]
    )
    assert bars(chart) == {"debug": [45.0], "full": [10.0]}
    assert chart.left_out.endswith("other items or prompts: hotpotqa (150 items).")


def test_of_runs_that_a_later_one_replaces_the_later_counts():
    (chart,) = drawn([run("hotpotqa", score) for score in (10.0, 30.0, 20.0)])
    assert bars(chart) == {"debug": [20.0]}


def test_what_a_dataset_has_of_its_own_splits_no_chart():
    chunking = {"chunking": "token", "chunk_size": 512, "max_length": 8000, "chat": False}
    (chart,) = drawn(
        [run("hotpotqa", 20.0), run("trec", 40.0, group="few-shot", chunking=chunking)]
    )
    assert (chart.categories, bars(chart)) == (
        ["few-shot", "multi-doc QA"],
        {"debug": [40.0, 20.0]},
    )
    assert chart.title == (
        "LongBench: m, chunks of 512 tokens, up to 8000 tokens, float32, rate 0.15"
    )
