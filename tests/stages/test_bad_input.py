"""A user's mistake is one clear line and exit code 2, and changes nothing on disk."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from eval.record import from_line
from models import selectors
from models.sealed import seal, unseal
from tests.stages.harness import line_of, records, refused, snapshot, timeless

STAGES = ["chunk", "precompute", "eval", "sweep", "gate"]


# Names


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_model(ready, stage):
    line = refused(ready, stage, "--model", "smolm2-135")
    assert "unknown model 'smolm2-135'" in line
    assert "smollm2-135m" in line


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_folder_that_does_not_exist(ready, stage):
    assert "no such folder" in refused(ready, stage, "--model", "./nowhere/model")


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_dataset(ready, stage):
    line = refused(ready, stage, "--dataset", "2wikimqq")
    assert "unknown dataset '2wikimqq'" in line
    assert "2wikimqa" in line


def test_unknown_method(ready):
    line = refused(ready, "eval", "--reuse", "full", "blendd")
    assert "REUSE=blendd" in line
    assert "blend" in line.partition("did you mean")[2]


def test_a_method_like_no_other_lists_them_all(ready):
    line = refused(ready, "eval", "--reuse", "xyzzy")
    assert all(name in line for name in [*selectors.names(), "a3", "cacheblend"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("LIMITS=2", "unknown variable LIMITS: did you mean LIMIT?"),
        ("--limits=2", "unknown variable LIMITS: did you mean LIMIT?"),
        ("limit=2", "variables are upper case: LIMIT=2"),
        ("LIMIT=", "LIMIT= has no value; leave it out for its default"),
        ("--limit", "--limit has no value"),
        ("ONLY_IF_MISSING=1", "unknown variable ONLY_IF_MISSING: see --help"),
        ("CHECK_OPTIONS=1", "unknown variable CHECK_OPTIONS"),
        ("2wikimqa", "'2wikimqa' is neither VARIABLE=value nor --option"),
    ],
)
def test_a_word_that_is_no_option(ready, stage, word, says):
    assert says in refused(ready, stage, word)


@pytest.mark.parametrize("stage", ["chunk", "precompute", "gate"])
def test_an_option_of_a_later_stage(ready, stage):
    assert "unknown variable REUSE" in refused(ready, stage, "REUSE=full")


@pytest.mark.parametrize("stage", ["eval", "sweep"])
@pytest.mark.parametrize("word", ["RATIO=.5", "CHECK_LAYERS=1", "LEGOK=3"])
def test_an_option_near_to_one_of_a_method(ready, stage, word):
    line = refused(ready, stage, word)
    assert f"unknown variable {word.partition('=')[0]}: did you mean " in line


# Numbers


@pytest.mark.parametrize("rate", ["-0.01", "1.01", "nan", "inf", "abc"])
def test_rate_outside_0_to_1(ready, rate):
    line = refused(ready, "eval", "--rate", rate)
    assert rate in line
    assert "rate" in line.lower()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("limit", ["0", "-3", "many"])
def test_limit_below_1(ready, stage, limit):
    line = refused(ready, stage, "--limit", limit)
    assert "limit" in line.lower()
    assert limit in line


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--chunk-size", "0", "CHUNK_SIZE=0"),
        ("--chunking", "sentence", "token or passage"),
        ("--max-length", "0", "MAX_LENGTH=0"),
        ("--max-length", "1024", "992"),  # 1024 positions, 32 of them for the answer
        ("--max-length", "30", "MAX_LENGTH"),  # the frame of the prompt alone is longer
        ("--longbench-dir", "/nonexistent", "/nonexistent"),
    ],
)
def test_chunk_options_that_cannot_be(ready, option, value, says):
    assert says in refused(ready, "chunk", option, value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-new-tokens", "0"), "MAX_NEW_TOKENS=0"),
        (("--check-layer", "-1"), "CHECK_LAYER=-1"),
        (("--seed", "-1"), "SEED=-1"),
        (("--reuse", "blend", "--blend-gap-source", "q"), "k or v"),
        (("REUSE=,",), "REUSE"),
        (("RATE=,",), "RATE"),
        (("--threads", "0"), "THREADS=0"),
        (("--threads", "100000"), "THREADS=100000"),
        (("--device", "gpu9"), "device"),
        (("--dtype", "int8"), "dtype"),
        (("--backend", "magic"), "blocked"),
    ],
)
def test_eval_options_that_cannot_be(ready, options, says):
    assert says in refused(ready, "eval", *options)


def test_a_check_layer_that_the_model_lacks(ready):
    line = refused(ready, "eval", "--reuse", "debug", "--check-layer", "9")
    assert "REUSE=debug:check_layer=9 looks at layer 9: the model has layers 0 to 3" in line


# Rows and models


def test_no_longbench_and_the_sample_refused(place, monkeypatch):
    monkeypatch.delenv("LONGBENCH_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    place.rows = None
    line = refused(place, "chunk", "--sample", "false")
    assert "SAMPLE=0" in line
    assert "LONGBENCH_DIR" in line


def test_an_answer_longer_than_the_model(ready):
    assert "MAX_NEW_TOKENS=1000" in refused(ready, "eval", "--max-new-tokens", "1000")


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_with_a_sliding_window(ready, tmp_path, stage):
    folder = Path(shutil.copytree(ready.model, tmp_path / "window" / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert "sliding window of 64" in refused(ready, stage, "--model", folder)


# Folders and disks


@pytest.mark.parametrize(
    ("stage", "option"), [("chunk", "--inputs"), ("precompute", "--kvs"), ("eval", "--outputs")]
)
def test_a_folder_below_a_file_cannot_be_written(ready, tmp_path, stage, option):
    (tmp_path / "file").write_text("in the way")
    line = refused(ready, stage, option, tmp_path / "file" / "below")
    assert "cannot write" in line
    assert str(tmp_path / "file" / "below") in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize(
    ("stage", "option"), [("chunk", "--inputs"), ("precompute", "--kvs"), ("eval", "--outputs")]
)
def test_a_read_only_folder(ready, tmp_path, stage, option):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot write" in refused(ready, stage, option, folder)


@pytest.mark.parametrize(("stage", "room"), [("chunk", 512), ("precompute", 40_000)])
def test_a_full_disk(place, forks, tmp_path, stage, room):
    """A file may grow to ``room`` bytes: the write that fails is a real one, inside torch.save."""
    if stage == "precompute":
        place.ok("chunk")
    before = {name for name, content in snapshot(place.root).items() if content != "folder"}
    child = forks.start(place.argv(stage), tmp_path / "log", limit=room)
    code, lines = child.wait(), child.log.read_text().splitlines()
    assert code == 2, lines
    assert "the disk is full" in lines[-1]
    assert "cannot write" in lines[-1]
    assert not any("Traceback" in line for line in lines)
    after = {name for name, content in snapshot(place.root).items() if content != "folder"}
    assert {name for name in after if "/.locks/" not in name} == before


def test_a_disk_that_fills_while_eval_runs(ready, forks, tmp_path):
    ready.ok("eval", "--reuse", "random")
    wanted = records(ready.runs()["random"])
    shutil.rmtree(ready.runs()["random"])
    room = 3 * len(json.dumps(wanted[0])) + 200  # the gate is known; config.json has room
    assert room > (ready.runs()["full"] / "config.json").stat().st_size
    argv = ready.argv("eval", "--reuse", "random")
    child = forks.start(argv, tmp_path / "log", limit=room)
    code, lines = child.wait(), child.log.read_text().splitlines()
    assert code == 2, lines
    assert "the disk is full" in lines[-1]
    assert not any("Traceback" in line for line in lines)
    ready.ok("eval", "--reuse", "random")
    assert [r["id"] for r in records(ready.runs()["random"])] == ready.ids()


def test_too_little_room_is_seen_before_anything_is_built(place, monkeypatch):
    place.ok("chunk")
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "GB are free" in refused(place, "precompute")


# Runs


def resealed(path: Path, part: str, **changes: object) -> None:
    """A run's configuration as if another run had written it."""
    saved = unseal(json.loads(path.read_text()))
    saved[part] |= changes
    path.write_text(json.dumps(seal(saved)))


def test_a_run_folder_of_another_configuration(ready):
    resealed(ready.runs()["full"] / "config.json", "config", seed=5)
    line = refused(ready, "eval", "--reuse", "full")
    assert "was begun with seed=5, this run has 0" in line
    assert "FRESH=1" in line


def test_a_run_folder_of_another_machine(ready):
    resealed(ready.runs()["full"] / "config.json", "machine", device="a faster one")
    assert "was begun with device='a faster one'" in refused(ready, "eval", "--reuse", "full")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"config": 3, "machine": {}}', b"\xff\xfe", "edited"]
)
def test_a_damaged_run_configuration(ready, content):
    path = ready.runs()["full"] / "config.json"
    if content == "edited":
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    else:
        path.write_bytes(content)
    line = refused(ready, "eval", "--reuse", "full")
    assert f"{path} is damaged" in line
    assert "start over with FRESH=1" in line


def test_a_folder_in_the_place_of_a_run_configuration(ready):
    path = ready.runs()["full"] / "config.json"
    path.unlink()
    path.mkdir()
    assert f"{path} is a folder; move it away" in refused(ready, "eval", "--reuse", "full")
    path.rmdir()
    ready.ok("eval", "--reuse", "full", "--fresh", "1")


def test_records_without_their_configuration(ready):
    (ready.runs()["full"] / "config.json").unlink()
    assert "FRESH=1" in line_of(ready.run("eval", "--reuse", "full"), "eval")


def score_100(line: bytes) -> bytes:
    """The record with a score that nobody measured."""
    record = json.loads(line)
    assert record["score"] != 100.0
    return json.dumps(record | {"score": 100.0}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b'{"id": "row-',
        lambda line: b"[]",
        lambda line: b"{}",
        lambda line: b"\xff\xfe",
        lambda line: line[:-30] + b" " * 30,
        score_100,
    ],
)
def test_a_damaged_record_costs_its_own_item_only(ready, damage):
    folder = ready.runs()["full"]
    path, result = folder / "records.jsonl", (folder / "result.json").read_bytes()
    lines = path.read_bytes().splitlines(keepends=True)
    third = ready.ids()[2]
    path.write_bytes(b"".join([*lines[:2], damage(lines[2]) + b"\n", *lines[3:]]))
    outcome = ready.ok("eval", "--reuse", "full")
    (told,) = outcome.err.splitlines()
    assert f"{path}: damaged or edited: line 3 (" in told
    assert "left out, and its item done again" in told
    assert "resuming, 4 of 5 results are there" in outcome.out
    now = path.read_bytes().splitlines(keepends=True)
    assert [line for line in lines if line in now] == [*lines[:2], *lines[3:]]
    again = records_by_id(now[-1:])[third]
    assert timeless(again) == timeless(records_by_id(lines)[third])
    items = ready.result("full")["items"]
    assert [item["id"] for item in items] == ready.ids()
    assert list(map(timeless, items)) == list(map(timeless, json.loads(result)["items"]))


def records_by_id(lines: list[bytes]) -> dict[str, dict]:
    return {record["id"]: record for record in map(from_line, lines)}


def test_a_record_that_is_damaged_is_told_until_it_is_mended(ready):
    """Later runs find the item's own line behind it, and say again what is left out."""
    path = ready.runs()["full"] / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))
    ready.ok("eval", "--reuse", "full")
    mended = path.read_bytes()
    outcome = ready.ok("eval", "--reuse", "full")
    assert "line 3" in outcome.err
    assert path.read_bytes() == mended
    ready.ok("eval", "--reuse", "full", "--fresh", "1")
    assert [record["id"] for record in records(ready.runs()["full"])] == ready.ids()
    assert ready.ok("eval", "--reuse", "full").err == ""


def test_blank_lines_are_no_damage(ready):
    path = ready.runs()["full"] / "records.jsonl"
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\n  \n"))
    before = path.read_bytes()
    outcome = ready.ok("eval", "--reuse", "full")
    assert outcome.err == ""
    assert path.read_bytes() == before


def test_two_evals_in_the_same_folder(ready):
    with (ready.runs()["full"] / "records.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "in use by another eval" in refused(ready, "eval", "--reuse", "full")
        assert "in use" in refused(ready, "eval", "--reuse", "full", "--fresh", "true")
    ready.ok("eval", "--reuse", "full")


def test_a_model_that_fails_its_gate(ready, monkeypatch):
    monkeypatch.setattr("models.gate.TOLERANCE", {torch.float32: -1.0})
    (gate,) = (ready.root / "outputs").glob("*/gate.json")
    gate.unlink()
    line = line_of(ready.run("eval", "--reuse", "debug"), "eval")
    assert "fails its gate" in line
    assert set(ready.runs()) == {"full"}
    assert "fails its gate" in refused(ready, "eval", "--reuse", "debug")  # remembered


def test_the_built_in_sample_is_announced_everywhere(place, monkeypatch):
    monkeypatch.delenv("LONGBENCH_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    place.settings, place.rows = {}, None
    short = ("--limit", "2", "--max-length", "300")
    warning = "BUILT-IN SAMPLE, NOT THE BENCHMARK"
    assert warning in place.ok("chunk", *short).err
    assert warning in place.ok("precompute", *short).err
    outcome = place.ok("eval", "--reuse", "full", *short)
    assert warning in outcome.err
    assert warning in outcome.out
    assert warning in place.result("full")["note"]
    assert warning in (place.runs()["full"] / "result.txt").read_text()
    assert place.result("full")["inputs"]["is_sample"] is True


def test_real_rows_carry_no_warning(prepared):
    assert prepared.result("full")["note"] is None
    assert "SAMPLE" not in (prepared.runs()["full"] / "result.txt").read_text()
