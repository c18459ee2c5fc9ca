"""The study: what its plan holds, and what its claims say of results that are made up."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from eval.analysis.measures import ROUNDING
from eval.folder import RunFolder
from eval.study import __main__ as study
from eval.study import picture, standings, table
from eval.study.claims import PRIMARY, as_published, best_published, claims
from eval.study.config import StudyConfig
from eval.study.measured import times_of
from eval.study.plan import parts
from models import selectors
from models.errors import UserError
from stage.config import MachineOptions


def result(method: str, rate: float | None, kl: list[float], context: str = "sink") -> dict:
    mean = float(np.mean(kl))
    return {
        "config": {
            "method": method,
            "options": {} if rate is None else {"rate": rate},
            "context": context,
            "corrector": "none",
        },
        "oracle": False,
        "kl_mean": mean,
        "kl_mean_ci95": [mean / 2, mean * 2],
        "top1_agreement": 0.9,
        "score": 40.0,
        "retention": 0.8,
        "speedup": {"ready": 4.0, "cold": None},
        "items": [{"id": str(i), "kl_mean": value} for i, value in enumerate(kl)],
    }


def results(scale: float = 1.0, n: int = 40) -> list[dict]:
    base = np.random.default_rng(0).gamma(2.0, 0.05, n)
    return [
        result("random", 0.15, list(base * 0.01)),  # a control, however near, is no method
        result("full", None, list(base * 0.01)),
        result("debug", 0.15, list(base * 1.2), "prefix"),
        result("blend", 0.15, list(base * 1.1)),
        result("prophet", 0.15, list(base)),
        result("primer", 0.15, list(base * 0.3 * scale), "primed:256"),
        result("primer", 0.02, list(base * 0.9 * scale), "primed:256"),
        result("primer", 0.0, list(base * 1.05 * scale), "primed:256"),
    ]


def test_the_plan_names_methods_that_there_are_and_disjoint_items():
    plan = parts()
    for part in plan.values():
        for sweep in part.sweeps:
            assert {selectors.canonical(name) for name in sweep.reuse} <= set(selectors.names())
    development, test = plan["development"], plan["test"]
    assert development.dataset == test.dataset
    assert development.skip + 200 <= test.skip


def test_the_best_published_method_is_no_control_and_not_ours():
    assert best_published(results())["config"]["method"] == "prophet"
    assert best_published(results(), "blend")["config"]["method"] == "blend"
    assert best_published(results()[:2]) is None
    elsewhere = result("prophet @ primed:256", 0.15, [0.001], "primed:256")
    assert best_published([*results(), elsewhere])["config"]["method"] == "prophet"


def test_claims_hold_where_the_shares_are_met():
    rows = claims({"tiny": results()})
    assert [row["rate"] for row in rows] == [claim.rate for claim in PRIMARY]
    assert [row["other"] for row in rows] == ["prophet", "prophet", "blend"]
    assert [round(row["ratio"], 3) for row in rows] == [0.3, 0.9, round(1.05 / 1.1, 3)]
    assert all(row["met"] and row["verdict"] == "better" for row in rows)
    assert rows[0]["p_holm"] >= rows[0]["p"]
    text = table.primary(rows)
    assert text.count(" yes") == 3


def test_claims_fail_where_they_are_missed():
    rows = claims({"tiny": results(1.2)})
    assert [row["met"] for row in rows] == [False, False, False]
    assert rows[0]["verdict"] == "better"  # nearer than the best, and not near enough
    assert rows[1]["verdict"] == "worse"


def test_holm_counts_the_comparisons_of_all_models():
    one, two = claims({"a": results()}), claims({"a": results(), "b": results(0.999)})
    assert len(two) == 2 * len(one)
    assert max(row["p_holm"] for row in two) >= max(row["p_holm"] for row in one)


def test_what_was_not_run_is_not_claimed():
    assert claims({"tiny": results()[:5]}) == []
    other = results()
    other[3]["items"][0]["id"] = "another"
    with pytest.raises(ValueError, match="ran on different items"):
        claims({"tiny": other})


def test_the_tests_tables_are_read_from_their_page_and_drawn(tmp_path):
    found = standings.read(Path("docs/method.md").read_text())
    assert list(found) == ["SmolLM2", "Qwen 0.5B"]
    small = {(row.method, row.rate): row for row in found["SmolLM2"]}
    assert small["primer", 0.15] == ("primer", 0.15, 0.0135, 0.0103, 0.0170)
    assert small["blend_debug", 0.15].kl == 0.0542
    assert len(small) == 11
    path = tmp_path / "primer.png"
    standings.draw(found, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    head = f"A model:\n\n{standings.HEAD}\n|---|\n"
    for text, says in (
        ("", "has no table"),
        (standings.HEAD, "no words before"),
        (head, "A model has no rows"),
        (f"{head}| x | y | .1 | high | .2 to .3 |", "no row of a standing"),
    ):
        with pytest.raises(UserError, match=says):
            standings.read(text)


def test_a_tie_is_rounding():
    runs = results()
    for ours, theirs in zip(runs[5]["items"], runs[4]["items"], strict=True):
        ours["kl_mean"] = theirs["kl_mean"] + ROUNDING / 2
    assert claims({"tiny": runs})[0]["difference"] == 0.0


def test_the_map_is_drawn(tmp_path):
    path = tmp_path / "study.png"
    models = {"tiny": results(), "small": results(2.0)}
    picture.draw(models, path, {model: times_of(found) for model, found in models.items()})
    assert path.read_bytes().startswith(b"\x89PNG")
    picture.draw(models, path, {})  # nothing was timed: the right panels stand alone


def test_as_published_is_a_methods_own_context_and_no_corrector():
    run = result("debug", 0.15, [0.1], selectors.selector_class("debug").context)
    assert as_published(run)
    assert not as_published(result("debug", 0.15, [0.1], "primed:256"))
    run["config"] |= {"method": "debug + shift", "corrector": "shift"}
    assert not as_published(run)


def test_times_may_come_from_another_study(tmp_path):
    runs = results()
    folders = []
    for place, run in enumerate(runs):
        run["speedup"] = {"ready": 2.0 + place, "cold": None}
        folder = RunFolder(tmp_path, "run", {"place": place}, {})
        folder.path.mkdir()
        folder.finish({**run, "config": run["config"] | {"model": "org--tiny"}}, "")
        folders.append(str(folder.path))
    left = tmp_path / "study.json"
    left.write_text(json.dumps({"runs": {"/a/tiny.gguf": folders}}))
    found = study.quiet(str(left), ["org/tiny"])["org--tiny"]
    assert found["primer", 0.15, "none"] == 100 / 7
    assert found["full", None, "none"] == 100 / 3
    with pytest.raises(UserError, match="has no times of org/other; run PART=times on it too"):
        study.quiet(str(left), ["org/tiny", "org/other"])
    for text in ("{}", "[]", "nonsense", "[" * 200_000, '{"runs": {"a": [1]}}'):
        left.write_text(text)
        with pytest.raises(UserError, match=r"TIMES=.*study\.json"):
            study.quiet(str(left), ["org/tiny"])


def test_bad_times_are_told_before_anything_is_run(monkeypatch):
    monkeypatch.setattr(study, "run", lambda *_: pytest.fail("a sweep was run"))
    with pytest.raises(UserError, match=r"TIMES=nowhere is no study\.json"):
        study.main(StudyConfig(models=["org/tiny"], times="nowhere"))


def test_an_unknown_model_is_told_before_the_first_is_run():
    with pytest.raises(UserError, match="unknown model 'nothing'"):
        StudyConfig(models=["org/tiny", "nothing"])


def test_a_damaged_plan_is_told_in_one_line(tmp_path):
    path = tmp_path / "study.yaml"
    for text, says in (("test: {dataset: x}", "skip"), ("[1", "cannot be")):
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            parts(path)


def test_every_option_of_the_machine_reaches_the_sweeps():
    assert {found.name for found in fields(MachineOptions)} <= set(study.PLACES)
    config = StudyConfig(models=["org/tiny"], fast=["graph"], threads=1)
    sweeps = list(study.asked(config, parts()["times"], "org/tiny"))
    assert {(*sweep.fast, sweep.threads) for sweep in sweeps} == {("graph", 1)}
