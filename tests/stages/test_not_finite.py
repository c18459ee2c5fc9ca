"""An item with NaN somewhere is refused by its name, and nothing of it is recorded."""

from __future__ import annotations

import json
import math

import pytest
import torch

from models.kv import store
from models.kv.capture import Captured
from tests.stages.harness import Workplace, line_of, records
from tests.stages.test_gating import nan_model

STAGES = {"eval": (), "sweep": ("--rate", 0.2)}


def damage(place: Workplace, item: str, bad: float) -> None:
    """A value of the item's stored KVs, in a file that is as it was written."""
    folder = place.kvs / f"item_{item}"
    content = torch.load(folder / store.KVS, weights_only=True)
    content["kv"][1, 2, 0, 20, 3] = bad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.kv.format._finite", lambda tensor: True)  # writing would refuse it
        store.write(folder, Captured(content["kv"], {}), content["meta"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_kvs_of_one_item(ready, stage, bad):
    longest = max(ready.inputs.read_text(encoding="utf-8").splitlines(), key=len)
    item = next(i for i in ready.ids()[1:] if i != json.loads(longest)["id"])
    damage(ready, item, bad)
    line = line_of(ready.run(stage, "--reuse", "random", *STAGES[stage]), stage)
    assert line.startswith(f"{stage}: item {item}, method random: the ")
    assert "hold NaN or infinite values; check" in line
    run = ready.runs()["random"]
    assert [record["id"] for record in records(run)] == ready.ids()[: ready.ids().index(item)]
    assert not (run / "result.json").exists()


def test_bad_kvs_of_the_item_that_warms_up(ready):
    lines = map(json.loads, ready.inputs.read_text(encoding="utf-8").splitlines())
    longest = max(lines, key=lambda row: sum(map(len, row["tokens"]["chunks"])))["id"]
    damage(ready, longest, math.nan)
    line = line_of(ready.run("eval", "--reuse", "random"), "eval")
    assert line.startswith(f"eval: item {longest}, method random: the ")
    assert records(ready.runs()["random"]) == []


def test_a_token_whose_embedding_is_nan(ready, tmp_path):
    """Items without it are evaluated, the first with it is refused: no fingerprint shows it."""
    rows = [json.loads(line) for line in ready.inputs.read_text(encoding="utf-8").splitlines()]
    tokens = [{t for c in row["tokens"]["chunks"] for t in c} for row in rows]
    longest = max(range(5), key=lambda i: sum(map(len, rows[i]["tokens"]["chunks"])))
    later = [i for i in range(1, 5) if i != longest]
    shared = [
        (i, t)
        for i in later
        for t in sorted(tokens[i])
        if not any(t in tokens[j] for j in {*range(i), longest})
    ]
    i, token = shared[0]
    nan_model(ready, tmp_path, token)
    line = line_of(ready.run("eval", "--reuse", "no"), "eval")
    assert line.startswith(f"eval: item {rows[i]['id']}, full prefill: the logits hold NaN")
    run = next(path for path in ready.runs().values() if path.name.startswith("no-"))
    assert [record["id"] for record in records(run)] == [row["id"] for row in rows[:i]]


def test_a_figure_that_is_nan(ready, monkeypatch):
    """Whatever it came from, it does not reach a record."""
    monkeypatch.setattr("eval.item.recording.mean_kl", lambda *_: math.nan)
    line = line_of(ready.run("eval", "--reuse", "random"), "eval")
    assert line.startswith(f"eval: item {ready.ids()[0]}, method random: the figures of kl_mean")
    assert records(ready.runs()["random"]) == []


def test_a_selector_that_breaks_its_budget(ready, monkeypatch):
    monkeypatch.setattr(
        "models.selectors.random.Selector.select", lambda self, probe: probe.candidates
    )
    line = line_of(ready.run("eval", "--reuse", "random"), "eval")
    assert "method random: selector random chose " in line
    assert " document positions, and the budget is " in line
    assert records(ready.runs()["random"]) == []
