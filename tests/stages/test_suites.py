"""Several datasets in one command: generated rows, one table, heatmaps, and what is kept."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread

from eval.report import __main__ as report
from tests.stages.harness import DATASET, make_rows, write_rows

BOTH = f"{DATASET},needle"
GRID = ("--lengths", "600", "700", "--depths", "0", "100")


@pytest.fixture
def evaluated(place):
    place.ok("chunk", "--dataset", BOTH, "--limit", 3, *GRID)
    place.ok("precompute", "--dataset", BOTH)
    outcome = place.ok("eval", "--dataset", BOTH, "--reuse", "no", "debug")
    return place, outcome


def needle_runs(place):
    return {p.name.split("-")[0]: p for p in (place.root / "outputs").glob("*/needle/*/")}


def test_one_table_over_datasets_and_a_heatmap_for_needles(evaluated):
    place, outcome = evaluated
    table = outcome.out.split("\n\n", 1)[1]
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
    assert set(result["extra_scores"]) == {"rouge_l"}
    assert "further scores: rouge_l" in (run / "result.txt").read_text(encoding="utf-8")
    assert imread(run / "heatmap.png").ndim == 3
    numbers = json.loads((run / "heatmap.json").read_text(encoding="utf-8"))
    assert (numbers["lengths"], numbers["depths"]) == ([600, 700], [0.0, 100.0])
    assert numbers["scores"][1][1] is None  # LIMIT left this cell out


def test_report_prints_every_dataset_named(evaluated, capsys):
    place, _ = evaluated
    config = report.StageConfig(
        model=str(place.model), dataset=BOTH, outputs=str(place.root / "outputs")
    )
    report.main(config)
    out = capsys.readouterr().out
    assert f"on {DATASET}: 3 of 5 items" in out
    assert "on needle: 3 of 4 items" in out


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), True),
        (GRID, True),
        (("--limit", "3"), True),
        (("--limit", "4"), False),
        (("--lengths", "650"), False),
        (("--data-seed", "1"), False),
        (("--chunking", "passage"), True),  # needles have no passages: tokens, as before
    ],
)
def test_generated_rows_are_kept_while_they_fit(place, options, kept):
    place.ok("chunk", "--dataset", "needle", "--limit", 3, *GRID)
    outcome = place.ok("chunk", "--dataset", "needle", "--only-if-missing", *options)
    assert ("items already" in outcome.out) == kept


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


def test_rows_of_another_folder_are_read_anew(place, tmp_path):
    place.ok("chunk")
    assert "items already" in place.ok("chunk", "--only-if-missing").out
    other = write_rows(tmp_path / "other", make_rows(2, seed=9))
    outcome = place.ok("chunk", "--only-if-missing", "--longbench-dir", other)
    assert "2 of 2 items from the folder" in outcome.out
    assert place.ids() == ["row-0", "row-1"]


def test_a_sweep_over_several_datasets(place):
    place.ok("chunk", "--dataset", BOTH, "--limit", 2, *GRID)
    place.ok("precompute", "--dataset", BOTH)
    out = place.ok("sweep", "--dataset", BOTH, "--reuse", "random", "--rate", 0.1, 0.5).out
    found = [json.loads(p.read_text()) for p in (place.root / "outputs").rglob("sweep.json")]
    assert sorted(sweep["config"]["dataset"] for sweep in found) == [DATASET, "needle"]
    assert all((sweep["n"], len(sweep["rows"])) == (2, 2) for sweep in found)
    assert all(f" on {name}: 2 of" in out for name in (DATASET, "needle"))
    assert (needle_runs(place)["random"] / "heatmap.png").exists()
