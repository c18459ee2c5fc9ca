"""Several datasets in one command: generated rows, one table, heatmaps, and what is kept."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread

from tests.stages.harness import DATASET

BOTH = f"{DATASET},needle"
GRID = {"lengths": "600 700", "depths": "0 100"}


@pytest.fixture
def evaluated(place):
    place.settings |= {"limit": 3, **GRID}
    outcome = place.ok("eval", "--dataset", BOTH, "--reuse", "no", "debug")
    return place, outcome


def needle_runs(place):
    return {p.name.split("-")[0]: p for p in (place.root / "outputs").glob("*/needle/*/")}


def test_one_table_over_datasets_and_a_heatmap_for_needles(evaluated):
    place, outcome = evaluated
    table = outcome.out.partition(": 2 datasets;")[2]
    assert [
        line.split()[:2] for line in table.splitlines() if line.startswith((DATASET, "need"))
    ] == [
        [DATASET, "3"],
        ["needle", "3"],
    ]
    run = needle_runs(place)["debug"]
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert [(r["context_length"], r["depth"]) for r in result["items"]] == [
        (600, 0),
        (600, 100),
        (700, 0),
    ]
    assert {r["id"] for r in result["items"]} == {"600_0", "600_100", "700_0"}
    assert all(570 <= r["tokens"] <= 700 for r in result["items"])
    assert set(result["extra_scores"]) == {"rougeL"}
    assert "further scores: rougeL" in (run / "result.txt").read_text(encoding="utf-8")
    assert imread(run / "heatmap.png").ndim == 3
    numbers = json.loads((run / "heatmap.json").read_text(encoding="utf-8"))
    assert (numbers["lengths"], numbers["depths"]) == ([600, 700], [0.0, 100.0])
    assert numbers["scores"][1][1] is None  # LIMIT left this cell out


def test_report_prints_every_dataset_named(evaluated):
    place, _ = evaluated
    out = place.ok("report", "--dataset", BOTH).out
    assert f"on {DATASET}: 3 of 5 items" in out
    assert "on needle: 3 of 4 items" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "needle", "--depths", "120"), "DEPTHS=120 is no depth"),
        (("--dataset", "needle", "--lengths", "5000"), "LENGTHS=5000 does not fit"),
        (("--dataset", "ruler_vt", "--lengths", "100"), "LENGTHS=100"),
        (("--dataset", "trek"), "did you mean trec"),
        (("--dataset", " , "), "no dataset named"),
        (("--dataset", f"{DATASET},nedle"), "did you mean needle"),
    ],
)
def test_bad_grids_and_names_are_one_line(place, options, message):
    outcome = place.run("chunk", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (place.root / "inputs").exists()


def test_a_sweep_over_several_datasets(place):
    place.settings |= {"limit": 2, **GRID}
    out = place.ok("sweep", "--dataset", BOTH, "--reuse", "random", "--rate", 0.1, 0.5).out
    found = [json.loads(p.read_text()) for p in (place.root / "outputs").rglob("sweep.json")]
    assert sorted(sweep["config"]["dataset"] for sweep in found) == [DATASET, "needle"]
    assert all((sweep["n"], len(sweep["rows"])) == (2, 2) for sweep in found)
    assert all(f" on {name}: 2 of" in out for name in (DATASET, "needle"))
    assert (needle_runs(place)["random"] / "heatmap.png").exists()
