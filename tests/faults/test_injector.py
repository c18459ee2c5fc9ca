"""The injector finds what it is there to find: planted bugs of every sort, and nothing else."""

from __future__ import annotations

import shutil
from random import Random

import pytest

import models.kv.reader as reader
from eval import folder
from eval.record import from_line
from models.sealed import parse
from tests.faults.cases import Case, attempt, plan
from tests.faults.damage import FIXED, Hit
from tests.faults.stand import METHODS, SETTINGS
from tests.faults.targets import TARGETS
from tests.faults.tensors import legacy
from tests.faults.verdict import (
    REFUSED,
    RIGHT,
    SILENT,
    TRACEBACK,
    contents,
    difference,
    lost,
    refusal,
    results,
)
from tests.stages.harness import Outcome


@pytest.mark.parametrize("tree", ["run", "begun", "built", "own model", "converted"])
def test_nothing_is_found_where_nothing_is_damaged(stand, tree):
    setting = tree if tree in SETTINGS else "run"
    stand.restore(tree)
    before = contents(stand.case)
    outcome = stand.run("eval", SETTINGS[setting])
    assert (outcome.code, outcome.err) == (0, "")
    assert results(outcome, METHODS) == stand.found[setting]
    assert lost(before, stand.case, stand.case / "outputs") is None


def test_a_shared_model_is_a_model(stand, monkeypatch):
    """Loaded anew it gives the same results, to the last digit."""
    monkeypatch.setattr(stand, "_unloaded", {})
    monkeypatch.setattr(stand, "_loaded", {})
    stand.restore("run")
    stand.clear()
    assert results(stand.run("eval"), METHODS) == stand.found["run"]


def test_a_plan_repeats_and_holds_every_pair():
    cases = plan(900, 3)
    assert cases == plan(900, 3)
    assert len(cases) == len(set(cases)) == 900
    pairs = {(name, damage) for name, target in TARGETS.items() for damage in target.damages}
    assert {(case.target, case.damage) for case in cases} == pairs
    assert not {case.seed for case in cases} & {case.seed for case in plan(900, 4)}


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_seed_is_the_same_damage(stand, name):
    target = TARGETS[name]
    for damage in target.damages.values():
        if damage is legacy:  # PyTorch writes memory addresses into its older form
            continue
        found = []
        for seed in (1, 1, 2):
            stand.restore(target.trees[0])
            rng, peers = Random(seed), target.files(stand.case)
            path = rng.choice(peers)
            kin = [other for pattern in target.kin for other in path.parent.glob(pattern)]
            trees = {tree: target.files(root) for tree, root in stand.trees.items()}
            damage(Hit(path, rng, peers, kin, trees))
            found.append({str(p): data for p, data in contents(stand.case).items()})
        assert found[0] == found[1]
    assert any(damage in FIXED for damage in target.damages)


# Planted bugs


def test_a_digest_that_is_not_taken(stand, monkeypatch):
    case = Case("kvs.pt", "bit flipped in the tensor", "1")
    assert attempt(stand, case).outcome == RIGHT
    monkeypatch.setattr(reader, "digest", lambda content: content["digest"])
    found = attempt(stand, case)
    assert found.outcome == SILENT
    assert " instead of " in found.detail


def test_a_record_that_is_not_asked_for_its_run(stand, monkeypatch):
    case = Case("records.jsonl", "of another method", "1")
    assert attempt(stand, case).outcome == RIGHT
    monkeypatch.setattr(folder, "from_line", lambda line, run: from_line(line))
    assert attempt(stand, case).outcome == SILENT


def test_an_error_that_nobody_caught(stand, monkeypatch):
    case = Case("config.json", "truncated", "2")
    assert attempt(stand, case).outcome == REFUSED
    monkeypatch.setattr(folder, "parse", lambda text: 1 / 0)
    found = attempt(stand, case)
    assert found.outcome == TRACEBACK
    assert found.detail.startswith("ZeroDivisionError: ")


def test_a_line_too_many(stand, monkeypatch):
    case = Case("config.json", "truncated", "2")

    def talkative(text: str) -> object:
        import os

        os.write(2, b"a library says something\n")
        return parse(text)

    monkeypatch.setattr(folder, "parse", talkative)
    found = attempt(stand, case)
    assert found.outcome == TRACEBACK
    assert "lines on stderr" in found.detail


def test_a_refusal_that_costs_finished_work(stand, monkeypatch):
    case = Case("config.json", "truncated", "2")
    kept = folder.parse

    def costly(text: str) -> object:
        shutil.rmtree(stand.case / "kvs")
        return kept(text)

    monkeypatch.setattr(folder, "parse", costly)
    assert "is gone" in attempt(stand, case).detail


@pytest.mark.parametrize(
    ("code", "err", "wrong"),
    [
        (2, "eval: /a/b.json is damaged; make eval", None),
        (2, "eval: the rows lack answers; mend them", None),
        (2, "eval: it does not work", "neither the file nor a remedy"),
        (2, "report: b.json", "1 lines"),
        (2, "", "0 lines"),
        (1, "eval: b.json", "exit code 1"),
    ],
)
def test_what_a_refusal_is(tmp_path, code, err, wrong):
    told = refusal("eval", Outcome(code, "", err), tmp_path / "b.json")
    assert told is None if wrong is None else wrong in told


def test_where_results_differ():
    assert difference({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0}]}) is None
    assert difference({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}]}).startswith("/a/1/b is 2.0")
    assert difference({"a": 1}, {"a": 1, "c": 2}) is not None
