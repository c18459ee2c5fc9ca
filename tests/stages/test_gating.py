"""The gate's memory: what it was run on, and what of ``gate.json`` is believed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.stages.harness import Workplace, line_of, make_rows, strict, write_rows

RUNNING = "running the gate on item"
DOUBT = "gate.json is damaged or was edited: what it says is not believed"


def gate_file(place: Workplace):
    (path,) = (place.root / "outputs").glob("*/gate.json")
    return path


def entries(place: Workplace):
    return strict(gate_file(place).read_text(encoding="utf-8"))


def test_it_is_remembered_with_its_item(ready):
    (entry,) = entries(ready)
    item = json.loads(ready.inputs.read_text(encoding="utf-8").splitlines()[0])
    assert entry["key"]["item"] == entry["gate"]["item"] == item["id"]
    assert entry["gate"]["chunks"] == len(item["chunks"]) > 1
    assert entry["gate"]["note"] is None
    tokens = item["tokens"]
    lengths = [len(part) for part in (tokens["prefix"], *tokens["chunks"], tokens["question"])]
    assert [end - start for start, end in entry["key"]["segments"]] == lengths
    assert RUNNING not in ready.ok("eval", "--reuse", "debug").out
    assert RUNNING not in ready.ok("eval", "--reuse", "debug", "--limit", 2).out
    assert entries(ready) == [entry]


@pytest.mark.parametrize("change", ["chunking", "rows", "order"])
def test_another_item_or_layout_is_another_gate(ready, tmp_path, change):
    (first,) = entries(ready)
    if change == "chunking":
        ready.settings = {"chunk_size": 31}
    else:
        rows = make_rows(5, seed=3) if change == "rows" else make_rows(5)[::-1]
        ready.rows = write_rows(tmp_path / "rows", rows)
    out = ready.ok("eval", "--reuse", "no").out
    item = json.loads(ready.inputs.read_text(encoding="utf-8").splitlines()[0])
    assert f"{RUNNING} {item['id']}, {len(item['chunks'])} chunks" in out
    old, new = entries(ready)
    assert old == first
    assert new["key"]["tokens"] != old["key"]["tokens"] or change == "chunking"
    assert new["key"]["segments"] != old["key"]["segments"]
    assert RUNNING not in ready.ok("eval", "--reuse", "no", "--limit", 1).out


def test_the_first_item_with_two_chunks_is_taken(place, tmp_path):
    one, *rest = make_rows(3)
    one["context"] = one["context"].split("\nPassage 2")[0]
    place.rows = write_rows(tmp_path / "rows", [one, *rest])
    place.settings = {"chunk_size": 60}
    place.ok("chunk")
    items = [json.loads(line) for line in place.inputs.read_text(encoding="utf-8").splitlines()]
    first = next(item["id"] for item in items if len(item["chunks"]) > 1)
    assert first != items[0]["id"]
    assert f"{RUNNING} {first}, " in place.ok("eval", "--reuse", "no").out


def test_inputs_of_one_chunk_each_are_named(place):
    place.settings = {"chunk_size": 4000}
    assert f"{RUNNING} row-0, 1 chunk (" in place.ok("eval", "--reuse", "no").out
    (entry,) = entries(place)
    assert entry["gate"]["note"].startswith("only one chunk: no item of these inputs has two")
    outcome = place.ok("gate")
    assert "only one chunk: no item of these inputs has two" in outcome.out
    assert "gate on item row-0, " in outcome.out


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b"null", b"7", b"[1]", b"[null]", b"[{}]", b'[{"key": 1}]', b"\xff\xfe"],
)
def test_a_damaged_file_is_not_believed(ready, content):
    (first,) = entries(ready)
    gate_file(ready).write_bytes(content)
    outcome = ready.ok("eval", "--reuse", "full", "--seed", 3)
    assert outcome.out.count(DOUBT) == 1
    assert outcome.out.count(RUNNING) == 1
    assert not outcome.err
    (entry,) = entries(ready)
    assert entry["key"] == first["key"]
    assert DOUBT not in ready.ok("eval", "--reuse", "full", "--seed", 4).out


def failed(place: Workplace, monkeypatch) -> dict:
    """The entry of a gate that did not pass."""
    gate_file(place).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("models.gate.TOLERANCE", {torch.float32: -1.0})
        assert "fails its gate" in line_of(place.run("eval", "--reuse", "debug"), "eval")
    (entry,) = entries(place)
    return entry


def test_an_edited_entry_is_not_believed(ready, monkeypatch):
    failure = failed(ready, monkeypatch)
    for edit in ("gate", "key", "sha256", "more"):
        entry = json.loads(json.dumps(failure))
        if edit == "gate":
            entry["gate"]["passed"] = True
        elif edit == "key":
            entry["key"]["code"] = "another"
        elif edit == "sha256":
            entry["sha256"] = entry["sha256"][::-1]
        else:
            entry["passed"] = True
        gate_file(ready).write_text(json.dumps([entry]), encoding="utf-8")
        outcome = ready.ok("eval", "--reuse", "full", "--seed", 3)
        assert DOUBT in outcome.out
        assert RUNNING in outcome.out
        assert all(e["gate"]["passed"] for e in entries(ready))


def test_a_failure_is_remembered_as_it_is(ready, monkeypatch):
    entry = failed(ready, monkeypatch)
    assert [check["passed"] for check in entry["gate"]["checks"]] == [False] * 3
    outcome = ready.run("eval", "--reuse", "debug")
    assert "fails its gate" in line_of(outcome, "eval")
    assert RUNNING not in outcome.out
    assert set(ready.runs()) == {"full"}


def test_damage_to_one_entry_costs_the_others_nothing(ready):
    (entry,) = entries(ready)
    gate_file(ready).write_text(json.dumps([{"key": 1, "gate": 2}, entry]), encoding="utf-8")
    outcome = ready.ok("eval", "--reuse", "full", "--seed", 3)
    assert RUNNING not in outcome.out
    assert DOUBT not in outcome.out


def nan_model(place: Workplace, tmp_path, token: int | None = None) -> None:
    """One weight of the model becomes NaN: one of a layer, or of a token's embedding."""
    folder = tmp_path / "nan" / place.model.name
    shutil.copytree(place.model, folder)
    weights = load_file(folder / "model.safetensors")
    if token is None:
        weights["model.layers.2.self_attn.v_proj.weight"][3, 5] = torch.nan
    else:
        weights["model.embed_tokens.weight"][token, 5] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    place.model = folder


def test_a_nan_in_a_weight_fails_the_gate(place, tmp_path):
    nan_model(place, tmp_path)
    assert "fails its gate" in line_of(place.run("eval", "--reuse", "no"), "eval")
    (entry,) = entries(place)
    assert [check["distance"] for check in entry["gate"]["checks"]] == [None] * 3
    assert entry["gate"]["passed"] is False
    assert not place.runs()
    outcome = place.run("gate")
    assert "fails its gate" in line_of(outcome, "gate")
    assert outcome.out.count("FAIL  ") == outcome.out.count("distance NaN or infinite") == 3
