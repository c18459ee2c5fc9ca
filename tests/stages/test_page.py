"""The report's page: every figure is that of result.json, and no text becomes markup."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data.inputs import Item
from eval.analysis.overlap import decode
from eval.folder import dumps
from eval.report.page import tokens
from eval.report.page.collect import collect
from eval.report.page.texts import Texts
from eval.report.page.tokens import Explorer
from models.sealed import seal, unseal
from models.timing import PARTS
from tests.stages.conftest import HOSTILE
from tests.stages.harness import DATASET, Workplace, line_of
from tests.stages.pages import page_of, results

# Where each figure of the overview stands in result.json.
PLACES = {
    "score": lambda r: r["score"],
    "kl_mean": lambda r: r["kl_mean"],
    "top1_agreement": lambda r: r["top1_agreement"],
    "speedup_ready": lambda r: r["speedup"]["ready"],
    "speedup_cold": lambda r: r["speedup"]["cold"],
    "limit_share": lambda r: (
        None if r["flop_limit"] is None else 100 * r["speedup"]["ready"] / r["flop_limit"]
    ),
    "ttft_ready_ms": lambda r: r["ttft_ms"]["ready"] and r["ttft_ms"]["ready"]["median"],
    "n": lambda r: r["n"],
    "rate": lambda r: r["config"]["options"].get("rate"),
}


@pytest.fixture(scope="module")
def page(reported):
    return page_of(reported)


def test_the_overview_holds_every_run_and_its_figures(reported, page):
    found = results(page)
    folders = {str(path.parent) for path in (reported.root / "outputs").glob("*/*/*/result.json")}
    assert {row["folder"] for row in page.rows} == folders
    assert len(page.rows) == 6 + 2 + 4 * 2
    for row in page.rows:
        result = found[row["run"]]
        for key, place in PLACES.items():
            value = place(result)
            assert row[key]["value"] == ("" if value is None else str(value)), (row["folder"], key)
        assert row["method"]["value"] == result["config"]["method"]
        low, high = result["score_ci95"]
        assert row["score"]["text"].split() == [
            f"{result['score']:.1f}",
            f"{low:.1f}",
            "–",
            f"{high:.1f}",
        ]
        assert row["kl_mean"]["text"].split()[0] == f"{result['kl_mean']:.3f}"


def test_charts_against_time_hold_the_runs_figures(page):
    found, seen = results(page), set()
    for group in page.json["data"]["groups"]:
        assert [chart["y_label"][:2] for chart in group["pareto"]] == ["sc", "KL"]
        for measure, chart in zip(("score", "kl_mean"), group["pareto"], strict=True):
            for line in chart["lines"]:
                for i, run in enumerate(line["runs"]):
                    result = found[run]
                    seen.add(run)
                    times = result["ttft_ms"]["ready"]
                    assert (line["x"][i], line["y"][i]) == (times["median"], result[measure])
                    assert (line["x_ci"][i], line["y_ci"][i]) == (
                        times["ci95"],
                        result[f"{measure}_ci95"],
                    )
                    limit = result["full_prefill_ms"]["median"] / result["flop_limit"]
                    none = result["config"]["method"] == "no"
                    assert line["limits"][i] == (None if none else limit)
        guides = {label: height for label, _, height in group["pareto"][0]["guides"]}
        first = found[group["runs"][0]]
        assert guides["no (full prefill)"] == first["full_score"]
    assert seen == {run for run, result in found.items() if not result["oracle"]}


def test_parts_of_a_ttft_add_up_to_its_median(page):
    found = results(page)
    for group in page.json["data"]["groups"]:
        timed = [found[run] for run in group["runs"] if not found[run]["oracle"]]
        cold = timed[0]["config"]["cold"]
        assert len(group["anatomy"]) == 1 + cold
        for chart, when in zip(group["anatomy"], ("ready", "cold"), strict=False):
            key = "ttft_parts_ready_ms" if when == "ready" else "ttft_parts_ms"
            assert [part["label"] for part in chart["parts"]] == list(PARTS)
            assert len(chart["categories"]) == len(timed)
            for i, result in enumerate(timed):
                assert [p["values"][i] for p in chart["parts"]] == list(result[key].values())
            assert chart["guide"] == timed[0]["full_prefill_ms"]["median"]


def test_layers_are_shown_where_deviations_were_measured(page):
    found = results(page)
    for group in page.json["data"]["groups"]:
        deviates = found[group["runs"][0]]["config"]["deviation"]
        assert len(group["layers"]) == (4 if deviates else 0)
        for chart in group["layers"]:
            measure = "delta_kv" if "Δ_kv" in chart["title"] else "delta_attn"
            labels = [line["label"].partition(":")[0] for line in chart["lines"]]
            assert labels == ["full", "random", "debug", "epic", "oracle_kv"]
            for line in chart["lines"]:
                assert line["y"] == found[line["runs"][0]][measure]


def test_the_explorer_shows_what_was_recomputed_and_answered(page):
    found = results(page)
    differ = 0
    for number, group in enumerate(page.json["data"]["groups"]):
        assert group["missing"] is None
        full = found[group["runs"][0]]
        assert full["config"]["method"] == "no"
        assert group["items"] == [item["id"] for item in full["items"]]
        for place in range(len(group["items"])):
            item = page.json[f"item-{number}-{place}"]
            record = full["items"][place]
            assert len(item["tokens"]) == record["tokens"] == len(item["scores"]["surprisal"])
            assert HOSTILE in "".join(item["tokens"]).replace("·", "")
            assert HOSTILE in item["question"]
            assert (item["full"], item["full_score"]) == (record["prediction"], record["score"])
            chosen = []
            for run in item["runs"]:
                own = found[run["run"]]["items"][place]
                assert {
                    key: own[key] for key in ("selected", "prediction", "score", "kl_mean")
                } == {key: run[key] for key in ("selected", "prediction", "score", "kl_mean")}
                kept = "".join(text for kind, text in run["changes"] if kind != "gone")
                lost = "".join(text for kind, text in run["changes"] if kind != "added")
                assert (lost, kept) == (record["prediction"], own["prediction"])
                chosen.append(decode(run["selected"], item["documents"]).tobytes())
            differ += len(set(chosen)) > 1
    assert differ == 6


def test_text_that_looks_like_markup_stays_text(page):
    assert page.tags.count("img") == 0
    items = [name for name in page.json if name.startswith("item-")]
    assert len(items) == 6
    # The data, the items, the library (as text), three scripts of ours and their start.
    assert page.tags.count("script") == 1 + len(items) + 1 + 3 + 1
    assert page.json[items[0]]["answers"][0] == HOSTILE


def test_nothing_is_loaded_from_elsewhere(reported):
    text = (reported.root / "outputs" / "report" / "index.html").read_text(encoding="utf-8")
    head = text[: text.index('id="data"')]
    assert "default-src 'none'" in head
    assert "http://" not in head
    assert "https://" not in head


def test_each_chart_has_its_csv_and_png(reported, page):
    folder = reported.root / "outputs" / "report" / "figures"
    data = page.json["data"]
    charts = data["suites"] + [
        chart
        for group in data["groups"]
        for name in ("pareto", "anatomy", "needle", "versus", "layers")
        for chart in group[name]
    ]
    files = {f"{chart['file']}.{kind}" for chart in charts for kind in ("csv", "png")}
    assert {path.name for path in folder.iterdir()} == files
    for chart in charts:
        with (folder / f"{chart['file']}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [["" if v is None else str(v) for v in row] for row in chart["rows"]]
        assert (folder / f"{chart['file']}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_suite_s_bars_are_the_means_of_its_datasets(page):
    found = results(page)
    charts = page.json["data"]["suites"]
    assert [chart["rate"] for chart in charts] == ["0.3", "0.2", "0.5"]
    for chart in charts:
        cold = "sweep" not in chart["title"]
        for part in chart["parts"]:
            scores = [
                r["score"]
                for r in found.values()
                if r["config"]["method"] == part["label"]
                and r["config"]["cold"] == cold
                and str(r["config"]["options"].get("rate", chart["rate"])) == chart["rate"]
            ]
            assert part["values"] == [np.mean(scores)]


# What is not whole


@pytest.fixture
def copy(tmp_path: Path, reported: Workplace) -> Workplace:
    """The runs of the evaluation, without their inputs and those of the sweep."""
    shutil.copytree(reported.root / "outputs", tmp_path / "outputs")
    for path in (tmp_path / "outputs").glob("*/*/*/config.json"):
        if not json.loads(path.read_text(encoding="utf-8"))["config"]["cold"]:
            shutil.rmtree(path.parent)
    return Workplace(tmp_path, reported.model, reported.rows)


def reseal(path: Path, change) -> None:
    """Change a result as another version would have written it: its seal is right."""
    content = unseal(json.loads(path.read_text(encoding="utf-8")))
    change(content)
    path.write_bytes(dumps(seal(content)))


def one(workplace: Workplace, method: str = "epic") -> Path:
    return sorted((workplace.root / "outputs").glob(f"*/*/{method}-*"))[0]


def test_no_runs_at_all_are_one_line(place):
    assert "no finished run in " in line_of(place.run("report", "--page", "1"), "report")
    assert not (place.root / "outputs").exists()


def test_runs_of_another_dataset_only_give_the_page(copy):
    """Where nobody named the dataset, that it has no run is no error."""
    arguments = ["--outputs", copy.root / "outputs", "--dataset", "needle", "--page", "1"]
    outcome = copy.run("report", *arguments)
    assert "no finished run in" in line_of(outcome, "report")
    assert "report: " in outcome.out
    assert page_of(copy).rows


def test_a_half_finished_run_is_told(copy):
    folder = one(copy)
    (folder / "result.json").unlink()
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    outcome = copy.ok("report", "--page", "1")
    assert "5 finished runs, 1 half finished" in outcome.out
    page = page_of(copy)
    assert f"{folder} is half finished: 2 of 3 items are there" in " ".join(page.text.split())
    assert len(page.rows) == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.pop("revisions"), "is of another version ('revisions')"),
        (lambda r: r.pop("kl_mean_ci95"), "is of another version ('kl_mean_ci95')"),
        (lambda r: r["items"][0].pop("selected"), "is of another version (item's selected)"),
        (lambda r: r["config"].pop("chunking"), "is of another version ('chunking')"),
        (lambda r: r.update(items=None), "is of another version ("),
    ],
)
def test_a_run_of_another_version_is_told_and_left_out(copy, change, told):
    path = one(copy) / "result.json"
    reseal(path, change)
    copy.run("report", "--page", "1")
    page = page_of(copy)
    assert f"{path} {told}" in page.text
    assert len(page.rows) == 5


def test_a_damaged_run_is_told_and_left_out(copy):
    path = one(copy) / "result.json"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    assert copy.run("report", "--page", "1").code == 2
    page = page_of(copy)
    assert f"{path} is damaged or of an earlier version" in page.text
    assert len(page.rows) == 5


def test_a_failed_gate_and_samples_cannot_be_overlooked(copy):
    from eval.gating import _sealed

    path = next((copy.root / "outputs").glob("*/gate.json"))
    entries = json.loads(path.read_text(encoding="utf-8"))
    check = {"name": "r = 1 equals the full prefill", "passed": False, "distance": None}
    outcome = entries[0]["gate"] | {"passed": False, "checks": [check]}
    path.write_text(json.dumps([_sealed(entries[0]["key"], outcome)]), encoding="utf-8")
    reseal(one(copy) / "result.json", lambda r: r.update(note="BUILT-IN SAMPLE: <b>12</b> rows"))
    assert "1 failed gates" in copy.ok("report", "--page", "1").out
    text = " ".join(page_of(copy).text.split())
    assert "A gate has failed" in text
    assert "r = 1 equals the full prefill, distance NaN or infinite" in text
    assert "1 of 6 runs are on rows that were written for kvfuse" in text
    assert "b" in page_of(copy).tags  # the marks
    (row,) = [row for row in page_of(copy).rows if row["folder"] == str(one(copy))]
    name, *marks = row["dataset"]["text"].split()
    assert name == DATASET
    assert {("built-in", "sample"), ("gate", "failed")} <= set(pairwise(marks))


def test_without_inputs_tokens_are_places(copy):
    """The copy has no inputs beside it."""
    copy.ok("report", "--page", "1")
    page = page_of(copy)
    group = page.json["data"]["groups"][0]
    assert group["missing"].startswith("the inputs of these runs are not here any more")
    assert page.json["item-0-0"]["tokens"] is None
    assert page.json["item-0-0"]["runs"][0]["selected"]


def test_other_folders_may_be_named(copy, reported):
    outputs = [str(copy.root / "outputs"), str(reported.root / "outputs")]
    copy.ok("report", "--page", "1", "--folders", *outputs)
    page = page_of(copy)
    assert len(page.rows) == 16  # six are there twice, and count once
    assert page.text.count("is left out: the same run lies in ") == 6
    missing = str(copy.root / "nowhere")
    assert "there is no such folder" in line_of(copy.run("report", "--folders", missing), "report")


def test_runs_of_two_machines_are_no_group(copy):
    reseal(one(copy) / "result.json", lambda r: r["environment"].update(device="another"))
    copy.ok("report", "--page", "1")
    groups = page_of(copy).json["data"]["groups"]
    assert [len(group["runs"]) for group in groups] in ([1, 5], [5, 1])
    assert len({group["title"] for group in groups}) == 2
    assert len({chart["file"] for group in groups for chart in group["pareto"]}) == 4


def test_the_page_holds_so_many_texts_and_no_more(reported, monkeypatch):
    found = collect([reported.root / "outputs"])
    results = found.results[:1]
    explorer = Explorer(Texts([], [(reported.root / "inputs", reported.root / "kvs")]))
    assert len(explorer.items(results, ["r0"])["items"]) == 3
    monkeypatch.setattr(tokens, "ITEMS", 2)
    assert len(explorer.items(results, ["r0"])["items"]) == 2
    explorer.left = results[0]["items"][0]["tokens"]
    shown = explorer.items(results, ["r0"])
    assert (len(shown["items"]), shown["available"]) == (1, 3)
    assert explorer.items(results, ["r0"])["items"] == []


def scored(workplace: Workplace) -> tuple[Texts, list[dict], list[Item]]:
    """The texts, a full prefill and a run behind the sink, and the items."""
    texts = Texts([], [(workplace.root / "inputs", workplace.root / "kvs")])
    results = [r for r in collect([workplace.root / "outputs"]).results if r["config"]["cold"]]
    results = [r for r in results if r["config"]["method"] in ("no", "epic")]
    return texts, results, [*texts.items(results[0]).values()]


def told(results: list[dict], **changes) -> list[dict]:
    """The runs, had those that read KVs been made with other settings."""
    return [
        r if r["config"]["context"] is None else {**r, "config": {**r["config"], **changes}}
        for r in results
    ]


def read_scores(folder: Path, item: str) -> list[float]:
    path = folder / f"item_{item}" / "surprisal.pt"
    return pytest.approx(torch.load(path, weights_only=True)["scores"].tolist(), abs=5e-4)


def test_scores_of_other_tokens_weights_or_settings_are_not_shown(reported):
    texts, results, (first, other, *_) = scored(reported)
    assert texts.scores(results, first) == {"surprisal": read_scores(reported.kvs, first.id)}
    assert texts.scores(results, replace(other, id=first.id)) == {}
    config = results[0]["config"]
    cut = {**config["chunking"], "chunk_size": 16}
    for changes in ({"weights": "others"}, {"dtype": "float16"}, {"chunking": cut}):
        elsewhere = [{**r, "config": {**r["config"], **changes}} for r in results]
        assert texts.scores(elsewhere, first) == {}
    for context in ("prefix", "primed:40", "related:40"):
        assert texts.scores(told(results, context=context), first) == {}
    assert texts.scores([r for r in results if r["config"]["method"] == "no"], first) == {}


def test_scores_are_those_behind_a_run_s_own_context(reported, tmp_path):
    shutil.copytree(reported.root, tmp_path, dirs_exist_ok=True)
    workplace = Workplace(tmp_path, reported.model, reported.rows)
    sink = workplace.kvs
    texts, results, (first, *_) = scored(workplace)
    for context in ("related:40", "prefix"):
        workplace.ok("precompute", "--surprisal", "true", "--context", context)
        theirs, kept = told(results, context=context), read_scores(workplace.kvs, first.id)
        assert texts.scores(theirs, first) == {"surprisal": kept}
    assert read_scores(sink, first.id) != texts.scores(theirs, first)["surprisal"]
    assert texts.scores([*results, *theirs], first) == {
        "surprisal behind sink": read_scores(sink, first.id),
        "surprisal behind prefix": kept,
    }


def test_figures_of_charts_that_are_no_more_are_removed(copy):
    folder = copy.root / "outputs" / "report" / "figures"
    copy.ok("report", "--page", "1")
    before = {path.name for path in folder.iterdir()}
    for method in ("no", "random", "debug", "epic", "oracle_kv"):
        shutil.rmtree(one(copy, method))
    copy.ok("report", "--page", "1")
    after = {path.name for path in folder.iterdir()}
    assert any("versus" in name for name in before)
    assert not any("versus" in name for name in after)
