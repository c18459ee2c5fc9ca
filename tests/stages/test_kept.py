"""Answers of full prefills that an earlier run decoded."""

from __future__ import annotations

import json

import pytest

from eval.item.kept import FOLDERS, KeptAnswers
from models.decoding.answers import Together
from models.sealed import seal
from tests.stages.harness import records, timeless


@pytest.fixture
def steps(monkeypatch):
    """How many steps of answers were taken."""
    taken, original = [], Together._step

    def step(self, answers):
        taken.append(len(answers))
        original(self, answers)

    monkeypatch.setattr(Together, "_step", step)
    return taken


def files(place):
    return sorted((place.root / "outputs").glob("*/.answers/*/*.json"))


def test_another_method_needs_no_decoding_of_the_full_prefill(ready, steps):
    ready.ok("eval", "REUSE=no")
    assert len(files(ready)) == 5
    before = len(steps)
    out = ready.ok("eval", "REUSE=cat random", "RATE=.3").out
    assert "; 5 of its answers decoded by an earlier run" in out
    found = {name: records(ready.runs()[name]) for name in ("cat", "random")}
    assert all(record["answer_kept"] for record in found["cat"])
    again = len(steps) - before
    ready.ok("eval", "REUSE=cat random", "RATE=.3", "FRESH=1")
    for name, kept in found.items():
        fresh = records(ready.runs()[name])
        assert not any(record["answer_kept"] for record in fresh)
        assert list(map(timeless, fresh)) == list(map(timeless, kept))
    assert again < len(steps) - before - again


@pytest.mark.parametrize("damage", ["torn", "other tokens", "another prompt", "a wrong stop"])
def test_what_is_damaged_or_does_not_fit_is_decoded_again(ready, damage):
    ready.ok("eval", "REUSE=no")
    before = {path: path.read_bytes() for path in files(ready)}
    path = files(ready)[2]
    content = json.loads(before[path])
    content.pop("digest")
    if damage == "torn":
        path.write_bytes(before[path][:20])
    elif damage == "other tokens":
        path.write_text(json.dumps(seal(content | {"tokens": [*content["tokens"][::-1], 5]})))
    elif damage == "another prompt":
        path.write_text(json.dumps(seal(content | {"prompt": "0" * 64})))
    else:
        path.write_text(json.dumps(seal(content | {"stop": "two"})))
    ready.ok("eval", "REUSE=cat")
    assert (
        sorted(record["answer_kept"] for record in records(ready.runs()["cat"]))
        == [False] + [True] * 4
    )
    assert {path: path.read_bytes() for path in files(ready)} == before


@pytest.mark.parametrize("option", ["MAX_NEW_TOKENS=3", "DTYPE=bfloat16", "BACKEND=sdpa"])
def test_other_settings_have_answers_of_their_own(ready, option):
    ready.ok("eval", "REUSE=no")
    assert "decoded by an earlier run" not in ready.ok("eval", "REUSE=no", option).out
    assert len({path.parent for path in files(ready)}) == 2


def test_folders_do_not_pile_up(tmp_path):
    for number in range(FOLDERS + 3):
        KeptAnswers(tmp_path, {"code": number}).keep("ab" * 32, [1, number], None)
    assert len(list((tmp_path / ".answers").iterdir())) == FOLDERS
    assert KeptAnswers(tmp_path, {"code": FOLDERS + 2}).recall("ab" * 32) is not None


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / ".answers").touch()
    kept = KeptAnswers(tmp_path, {})
    kept.keep("ab" * 32, [1], None)
    assert kept.recall("ab" * 32) is None
