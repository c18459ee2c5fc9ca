"""Inputs and KVs lie under what they are made from: nothing stale is read, nothing made twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import datasets, inputs
from tests.stages.harness import (
    DATASET,
    Outcome,
    line_of,
    make_rows,
    records,
    snapshot,
    write_rows,
)

STAGES = ["chunk", "precompute", "eval", "sweep", "gate"]
NEEDLES = ("DATASET=needle", "LENGTHS=600 700", "DEPTHS=50")


def used(outcome: Outcome) -> Path:
    """The inputs that a stage says it uses."""
    (path,) = re.findall(r"^inputs: (.*), \d+ items; ", outcome.out, re.MULTILINE)
    return Path(path)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def length(line: dict) -> int:
    """Tokens of an item's prompt."""
    tokens = line["tokens"]
    return sum(map(len, [tokens["prefix"], *tokens["chunks"], tokens["question"]]))


def stamps(*roots: Path) -> dict[Path, int]:
    """When each file was written last."""
    found = (path for root in roots for path in root.rglob("*"))
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def edited_entry(monkeypatch, **changes) -> None:
    """The benchmark's entry, as if its YAML file had been edited."""
    known = datasets._known()
    mine = known | {DATASET: replace(known[DATASET], **changes)}
    monkeypatch.setattr(datasets, "_known", lambda: mine)


# What they hold


def test_inputs_hold_what_the_benchmark_scores_with(prepared):
    meta = json.loads(inputs.meta_path(prepared.inputs).read_text())
    assert meta["rows"] == meta["available"] == 5
    assert meta["source"] == "folder"
    assert meta["recipe"]["settings"]["chunk_size"] == 24
    assert not meta["is_sample"]
    for row, item in zip(make_rows(5), lines_of(prepared.inputs), strict=True):
        assert (item["question"], item["answers"]) == (row["input"], row["answers"])
        assert {"id", "chunks", "all_classes", "length"} <= item.keys()
        assert "".join(item["chunks"]) == row["context"] or "�" in "".join(item["chunks"])


def test_passages_become_chunks(place):
    found = lines_of(used(place.ok("chunk", "CHUNKING=passage")))
    for row, item in zip(make_rows(5), found, strict=True):
        assert len(item["tokens"]["chunks"]) == row["context"].count("Passage ")


def test_max_length_is_the_prompts(place):
    found = lines_of(used(place.ok("precompute", "MAX_LENGTH=200")))
    assert max(map(length, found)) == 200


# What is named holds for one call


def test_what_is_not_named_has_its_default(place):
    """Whatever an earlier call was told."""
    small = used(place.ok("chunk", "LIMIT=2", "MAX_LENGTH=200"))
    before = snapshot(small.parent)
    assert (len(lines_of(small)), max(map(length, lines_of(small)))) == (2, 200)
    plain = used(place.ok("chunk"))
    assert plain != small
    assert (len(lines_of(plain)), max(map(length, lines_of(plain)))) == (5, 240)
    assert before.items() <= snapshot(small.parent).items()
    outcome = place.ok("eval", "REUSE=no")
    assert used(outcome) == plain
    assert place.result("no")["n"] == 5


def test_a_limit_that_leaves_all_room_changes_nothing(place):
    """``LIMIT=2 MAX_LENGTH=600`` and then nothing named, in one evaluation after the other."""
    place.ok("eval", "LIMIT=2", "MAX_LENGTH=600", "REUSE=full")
    assert place.result("full")["n"] == 2
    place.ok("eval", "REUSE=full")
    assert place.result("full")["n"] == 5
    assert place.result("full")["config"]["chunking"]["max_length"] == 992
    assert len(list((place.root / "outputs").glob("*/*/full-*"))) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "not the default: CHUNK_SIZE=24 LONGBENCH_DIR={rows}"),
        (("LIMIT=2", "CHAT=0"), "LIMIT=2 CHUNK_SIZE=24 CHAT=0 LONGBENCH_DIR={rows}"),
        (("CHUNK_SIZE=512",), "not the default: LONGBENCH_DIR={rows}"),
        (NEEDLES, 'LENGTHS="600 700" DEPTHS="50"'),
    ],
)
def test_what_is_not_the_default_is_said(place, options, says):
    (line,) = re.findall(r"^inputs: .*", place.ok("chunk", *options).out, re.MULTILINE)
    assert says.format(rows=place.rows) in line


# Found, or built


def test_inputs_that_are_there_are_found(ready):
    before = stamps(ready.root / "inputs")
    for stage in STAGES:
        outcome = ready.ok(stage)
        assert used(outcome) == ready.inputs
        assert "chunk: " not in outcome.out
    assert stamps(ready.root / "inputs") == before


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"the river", b"the rivet", 1))


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_builds_missing_inputs(ready, stage):
    whole = snapshot(ready.root / "inputs")
    for path in ready.inputs.parent.iterdir():
        path.unlink()
    outcome = ready.ok(stage)
    assert f"chunk: {DATASET}: 5 of 5 items from the folder" in outcome.out
    assert snapshot(ready.root / "inputs") == whole
    assert "chunk: " not in ready.ok(stage).out


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_builds_edited_inputs_anew_and_says_so(ready, stage):
    whole = snapshot(ready.root / "inputs")
    edit(ready.inputs)
    out = ready.ok(stage).out
    assert f"chunk: {ready.inputs} is not what its sidecar describes; building it anew" in out
    assert snapshot(ready.root / "inputs") == whole


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 99}', None, "rows", "limit"]
)
def test_a_damaged_sidecar_is_made_anew(ready, content):
    sidecar, whole = inputs.meta_path(ready.inputs), snapshot(ready.root / "inputs")
    if content is None:
        sidecar.unlink()
    elif isinstance(content, str):
        meta = json.loads(sidecar.read_text(encoding="utf-8"))
        (meta if content == "rows" else meta["recipe"])[content] = 4
        sidecar.write_text(json.dumps(meta), encoding="utf-8")
    else:
        sidecar.write_bytes(content)
    out = ready.ok("eval", "REUSE=full").out
    assert (f"chunk: {sidecar} is damaged" in out) == (content is not None)
    assert "items to build" not in out
    assert snapshot(ready.root / "inputs") == whole


@pytest.mark.parametrize("damage", [edit, Path.unlink])
def test_results_on_inputs_made_anew_are_those_of_whole_ones(ready, damage):
    ready.ok("eval", "REUSE=debug")
    before = (ready.runs()["debug"] / "records.jsonl").read_bytes()
    damage(ready.inputs)
    ready.ok("eval", "REUSE=debug")
    assert (ready.runs()["debug"] / "records.jsonl").read_bytes() == before
    assert len(list((ready.root / "outputs").glob("*/*/debug-*"))) == 1


def test_a_folder_in_the_place_of_inputs_is_left_alone(ready):
    path = ready.inputs
    path.unlink()
    path.mkdir()
    line = line_of(ready.run("eval"), "eval")
    assert "cannot write" in line
    assert str(path) in line
    assert path.is_dir()


# What changed


def test_an_edited_row_is_seen_and_going_back_finds_the_old(ready, tmp_path):
    ready.ok("eval", "REUSE=no")
    first, run = ready.inputs, ready.runs()["no"]
    before = stamps(first.parent, ready.root / "kvs", run)
    rows = make_rows(5)
    rows[2]["answers"] = ["something else"]
    ready.rows = write_rows(tmp_path / "rows", rows)
    outcome = ready.ok("eval", "REUSE=no")
    assert used(outcome) != first
    assert lines_of(used(outcome))[2]["answers"] == ["something else"]
    assert ready.runs()["no"] != run
    assert records(ready.runs()["no"])[2]["answers"] == ["something else"]
    rows[2] |= {"answers": make_rows(5)[2]["answers"], "context": "Passage 1:\nShort."}
    write_rows(ready.rows, rows)
    assert len(lines_of(used(ready.ok("chunk")))[2]["chunks"]) == 1
    write_rows(ready.rows, make_rows(5))
    outcome = ready.ok("eval", "REUSE=no")
    assert used(outcome) == first  # the rows are the same, whatever folder they are in
    assert "chunk: " not in outcome.out
    ours = {path: stamp for path, stamp in before.items() if "result" not in path.name}
    assert ours.items() <= stamps(first.parent, ready.root / "kvs", run).items()


def test_an_edited_prompt_is_seen_and_going_back_finds_the_old(ready, monkeypatch):
    ready.ok("eval", "REUSE=full")
    first, run = ready.inputs, ready.runs()["full"]
    before = (run / "records.jsonl").read_bytes()
    edited_entry(monkeypatch, instruction="Read this.\n\n")
    outcome = ready.ok("eval", "REUSE=full")
    assert used(outcome) != first
    assert lines_of(used(outcome))[0]["tokens"]["prefix"] != lines_of(first)[0]["tokens"]["prefix"]
    assert "5 of 5 items to build (5 of other tokens)" in outcome.out
    assert ready.runs()["full"] != run
    monkeypatch.undo()
    outcome = ready.ok("eval", "REUSE=full")
    assert used(outcome) == first
    assert "chunk: " not in outcome.out
    assert (run / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"metric": "rouge_l"}, {"version": 9}, {"first_line": True}])
def test_another_way_of_scoring_is_another_run_of_the_same_kvs(ready, monkeypatch, change):
    before = stamps(ready.kvs)
    edited_entry(monkeypatch, **change)
    outcome = ready.ok("eval", "REUSE=full")
    assert used(outcome) == ready.inputs
    assert len(list((ready.root / "outputs").glob("*/*/full-*"))) == 2
    assert stamps(ready.kvs) == before


def test_an_edited_haystack_is_seen(place, tmp_path):
    text = tmp_path / "hay" / "one.txt"
    text.parent.mkdir()
    text.write_text("The river is old. " * 400, encoding="utf-8")
    call = ("chunk", *NEEDLES, f"HAYSTACK={text.parent}")
    first = used(place.ok(*call))
    assert used(place.ok(*call)) == first
    text.write_text("The bridge is new. " * 400, encoding="utf-8")
    second = used(place.ok(*call))
    assert second != first
    assert "The bridge is new." in "".join(lines_of(second)[0]["chunks"])
    (tmp_path / "hay" / "two.md").write_text("A tower. " * 99, encoding="utf-8")
    assert used(place.ok(*call)) not in (first, second)
    text.write_text("The river is old. " * 400, encoding="utf-8")
    (tmp_path / "hay" / "two.md").unlink()
    outcome = place.ok(*call)
    assert used(outcome) == first
    assert "chunk: " not in outcome.out


def test_the_code_that_makes_inputs_is_seen(ready, monkeypatch):
    first = ready.inputs
    monkeypatch.setattr(inputs, "code_digest", lambda *modules: "another")
    assert used(ready.ok("chunk")) != first
    monkeypatch.undo()
    assert used(ready.ok("chunk")) == first


# Side by side


@pytest.mark.parametrize(
    "options",
    [
        ("CHUNK_SIZE=31",),
        ("CHUNKING=passage",),
        ("MAX_LENGTH=200",),
        ("CHAT=0",),
        ("DTYPE=bfloat16",),
    ],
)
def test_two_settings_lie_side_by_side(ready, options):
    """Going from one to the other and back builds nothing, and says nothing else."""
    ready.ok("eval", "REUSE=debug")
    ready.ok("eval", "REUSE=debug", *options)
    roots = [ready.root / "inputs", ready.root / "kvs"]
    assert len({path.parent.parent for path in roots[1].rglob("kvs.pt")}) == 2
    assert len(list((ready.root / "outputs").glob("*/*/debug-*"))) == 2
    before = stamps(*roots)
    kept = {path: path.read_bytes() for path in ready.root.rglob("records.jsonl")}
    for again in ((), options, ()):
        outcome = ready.ok("eval", "REUSE=debug", *again)
        assert "chunk: " not in outcome.out
        assert "eval: 2wikimqa: all 5 items are finished" in outcome.out
        assert "precompute: all 5 items are complete" in ready.ok("precompute", *again).out
    assert stamps(*roots) == before
    assert {path: path.read_bytes() for path in ready.root.rglob("records.jsonl")} == kept


def test_two_grids_of_needles_lie_side_by_side(place):
    for options in (NEEDLES, (*NEEDLES, "DATA_SEED=1")):
        assert "2 of 2 items to build (2 missing)" in place.ok("precompute", *options).out
    for options in (NEEDLES, (*NEEDLES, "DATA_SEED=1")):
        assert "all 2 items are complete" in place.ok("precompute", *options).out


def test_two_prompts_of_own_documents_lie_side_by_side(place, tmp_path):
    path = tmp_path / "mine.jsonl"
    row = {"question": "Who?", "context": "The river is old. " * 9, "answer": "The river"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    calls = [
        ("precompute", f"DATASET={path}", *more)
        for more in ((), ("PROMPT=Read {context} and say {question}",))
    ]
    for call in calls:
        assert "1 of 1 items to build (1 missing)" in place.ok(*call).out
    for call in calls:
        assert "all 1 items are complete" in place.ok(*call).out


def test_a_limit_shares_the_kvs(ready):
    before = stamps(ready.kvs)
    for options in (("LIMIT=2",), ("LIMIT=500",), ("LIMIT=4", "CHUNKING=token")):
        assert "items are complete" in ready.ok("precompute", *options).out
    assert stamps(ready.kvs) == before
    ready.ok("eval", "LIMIT=500", "REUSE=full")  # there are no more than five
    assert len(list((ready.root / "outputs").glob("*/*/full-*"))) == 1


def test_defaults_lie_under_the_dataset_s_own_name(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    place.settings, place.rows = {}, None
    outcome = place.ok("precompute", "LIMIT=1")
    assert "not the default: LIMIT=1" in outcome.out
    (model,) = (place.root / "kvs").iterdir()
    assert [path.name for path in model.iterdir()] == [DATASET]
    (item,) = [path for path in (model / DATASET).iterdir() if path.name.startswith("item_")]
    assert torch.load(item / "kvs.pt", weights_only=True)["meta"]["chunking"]["chunk_size"] == 512
    outcome = place.ok("precompute", "LIMIT=1", "CHUNK_SIZE=512", "CHUNKING=token", "DTYPE=float32")
    assert "all 1 items are complete" in outcome.out
    place.ok("precompute", "LIMIT=1", "CHUNK_SIZE=300")
    assert sorted(path.name for path in model.iterdir())[0] == DATASET
    assert len(list(model.iterdir())) == 2
