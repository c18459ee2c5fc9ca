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

from data import inputs as inputs_file
from eval.evaluator import Evaluator
from models import selectors
from tests.stages.harness import (
    line_of,
    make_model,
    make_tokenizer,
    records,
    refused,
    snapshot,
)


def reseal(path: Path, rows: list[dict], **changes: object) -> None:
    """Write inputs with a valid seal, as if stage 1 had made them so."""
    meta = inputs_file.read_meta(path)
    assert meta is not None
    inputs_file.write(path, rows, {k: v for k, v in (meta | changes).items() if k != "sha256"})


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Names


@pytest.mark.parametrize("stage", ["chunk", "precompute", "eval"])
def test_unknown_model(ready, stage):
    line = refused(ready, stage, "--model", "smolm2-135")
    assert "unknown model 'smolm2-135'" in line
    assert "smollm2-135m" in line


@pytest.mark.parametrize("stage", ["chunk", "precompute", "eval"])
def test_a_model_folder_that_does_not_exist(ready, stage):
    assert "no such folder" in refused(ready, stage, "--model", "./nowhere/model")


@pytest.mark.parametrize("stage", ["chunk", "precompute", "eval"])
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


def test_an_option_that_does_not_exist(ready):
    assert "--no-such-option" in refused(ready, "eval", "--no-such-option", "1")


# Numbers


@pytest.mark.parametrize("rate", ["-0.01", "1.01", "nan", "inf", "abc"])
def test_rate_outside_0_to_1(ready, rate):
    line = refused(ready, "eval", "--rate", rate)
    assert rate in line
    assert "rate" in line.lower()


@pytest.mark.parametrize("stage", ["chunk", "precompute", "eval"])
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
    options = [option, value] if option != "--chunk-size" else ["--chunk_size", value]
    assert says in refused(ready, "chunk", *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-new-tokens", "0"), "MAX_NEW_TOKENS=0"),
        (("--check-layer", "-1"), "CHECK_LAYER=-1"),
        (("--seed", "-1"), "SEED=-1"),
        (("--reuse", "blend", "--blend-gap-source", "q"), "k or v"),
        (("--reuse", ","), "REUSE"),
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
    assert "0 to 3" in line


# Inputs


@pytest.mark.parametrize("stage", ["precompute", "eval"])
def test_inputs_missing(place, stage):
    line = refused(place, stage)
    assert "missing" in line
    assert "make chunk" in line


@pytest.mark.parametrize("stage", ["precompute", "eval"])
def test_inputs_that_their_sidecar_does_not_describe(ready, stage):
    path = ready.inputs
    path.write_bytes(path.read_bytes().replace(b"the river", b"the rivet", 1))
    line = refused(ready, stage)
    assert str(path) in line
    assert "make chunk" in line


@pytest.mark.parametrize("stage", ["precompute", "eval"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}'])
def test_a_damaged_sidecar(ready, stage, content):
    inputs_file.meta_path(ready.inputs).write_bytes(content)
    assert "sidecar" in refused(ready, stage)


@pytest.mark.parametrize("stage", ["precompute", "eval"])
def test_inputs_of_another_tokenizer(ready, tmp_path, stage):
    ready.model = Path(shutil.copytree(ready.model, tmp_path / "elsewhere" / "tiny"))
    theirs, ours = ready.inputs.parent, ready.root / "inputs" / name_of(ready.model)
    theirs.rename(ours)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["Orsel"])
    tokenizer.save_pretrained(ready.model)
    assert "another tokenizer" in refused(ready, stage)


def name_of(model: Path) -> str:
    from models.load.source import resolve

    return resolve(str(model)).name


def test_no_longbench_and_the_sample_refused(place, monkeypatch):
    monkeypatch.delenv("LONGBENCH_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    line = refused(place, "chunk", "--longbench-dir", "", "--sample", "false")
    assert "SAMPLE=0" in line
    assert "LONGBENCH_DIR" in line


def test_an_item_longer_than_the_model(ready):
    path = ready.inputs
    rows = rows_of(path)
    rows[1]["tokens"]["chunks"].append([7] * 1100)
    reseal(path, rows)
    for stage in ("precompute", "eval"):
        line = refused(ready, stage)
        assert rows[1]["id"] in line
        assert "1024" in line


def test_an_answer_longer_than_the_model(ready):
    assert "MAX_NEW_TOKENS=1000" in refused(ready, "eval", "--max-new-tokens", "1000")


@pytest.mark.parametrize("stage", ["chunk", "precompute", "eval"])
def test_a_model_with_a_sliding_window(ready, tmp_path, stage):
    folder = Path(shutil.copytree(ready.model, tmp_path / "window" / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    ready.inputs.parent.rename(ready.root / "inputs" / name_of(folder))
    assert "sliding window of 64" in refused(ready, stage, "--model", folder)


# KVs


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def another_file(path: Path) -> None:
    path.write_text("These are no KVs.\n")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_dict_without_meta(path: Path) -> None:
    torch.save({"kv": torch.zeros(1)}, path)


def a_bare_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.parametrize(
    "damage", [truncated, emptied, another_file, a_folder, a_dict_without_meta, a_bare_tensor]
)
def test_damaged_kvs_are_refused_by_eval_and_rebuilt_by_precompute(ready, prepared, damage):
    path = ready.kv_files()[ready.ids()[3]]
    damage(path)
    line = refused(ready, "eval")
    assert str(path) in line
    assert "make precompute" in line
    if damage is a_folder:
        return  # what is no file of ours is not removed
    assert "1 of 5" in ready.ok("precompute").out
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)


def edited(path: Path, change: object) -> None:
    """The file with ``change`` applied to its meta."""
    content = torch.load(path)
    change(content["meta"])
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda meta: meta.update(weights="0" * 16), "weights"),
        (lambda meta: meta.update(format=0), "format"),
        (lambda meta: meta["rope"].update(rope_theta=5e5), "rope.rope_theta"),
        (lambda meta: meta.update(tokens="0" * 64), "tokens"),
        (lambda meta: meta["spans"].pop(), "spans"),
        (lambda meta: meta.pop("dtype"), "dtype"),
        (lambda meta: meta["chunking"].update(sink=[5]), "chunking.sink"),
    ],
)
def test_kvs_of_something_else_are_named_by_their_field(ready, change, field):
    path = ready.kv_files()[ready.ids()[2]]
    edited(path, change)
    line = refused(ready, "eval")
    assert f"{field} is" in line
    assert "make precompute" in line


def test_kvs_of_another_model(ready, tmp_path):
    make_model(tmp_path / "other" / "tiny", seed=8)
    os.rename(ready.kvs.parent, ready.root / "kvs" / name_of(tmp_path / "other" / "tiny"))
    os.rename(ready.inputs.parent, ready.root / "inputs" / name_of(tmp_path / "other" / "tiny"))
    line = refused(ready, "eval", "--model", tmp_path / "other" / "tiny")
    assert "weights is" in line
    assert "make precompute" in line


@pytest.mark.parametrize("option", [("--chunk_size", "31"), ("--chunking", "passage")])
def test_kvs_of_another_chunking(ready, option):
    ready.ok("chunk", *option)
    line = refused(ready, "eval")
    assert "chunking." in line
    assert "make precompute" in line
    assert "5 of 5" in ready.ok("precompute").out
    ready.ok("eval")


def test_kvs_of_another_dtype(ready):
    line = refused(ready, "eval", "--dtype", "bfloat16")
    assert "dtype is float32" in line
    assert "DTYPE=bfloat16" in line


def test_kvs_missing_before_eval(ready):
    path = ready.kv_files()[ready.ids()[4]]
    path.unlink()
    line = refused(ready, "eval")
    assert f"{path} is missing" in line
    assert "make precompute" in line


@pytest.mark.parametrize("damage", [truncated, Path.unlink])
def test_kvs_that_vanish_while_eval_runs(ready, prepared, monkeypatch, damage):
    victim = ready.kv_files()[ready.ids()[2]]
    original = Evaluator.record

    def record(self, item, method, reference):
        if item.id == ready.ids()[1]:
            damage(victim)
        return original(self, item, method, reference)

    monkeypatch.setattr(Evaluator, "record", record)
    line = line_of(ready.run("eval", "--reuse", "random"), "eval")
    assert str(victim) in line
    assert "make precompute" in line
    finished = (ready.runs()["random"] / "records.jsonl").read_bytes()
    assert [r["id"] for r in records(ready.runs()["random"])] == ready.ids()[:2]
    assert not list(ready.runs()["random"].glob("result.*"))

    monkeypatch.undo()
    ready.ok("precompute")
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)
    ready.ok("eval", "--reuse", "random")
    assert (ready.runs()["random"] / "records.jsonl").read_bytes().startswith(finished)
    assert [r["id"] for r in records(ready.runs()["random"])] == ready.ids()


def test_damaged_surprisal_is_rebuilt(ready):
    ready.ok("precompute", "--surprisal", "true")
    whole = snapshot(ready.kvs)
    truncated(ready.kvs / f"item_{ready.ids()[0]}" / "surprisal.pt")
    assert "1 of 5" in ready.ok("precompute", "--surprisal", "true").out
    assert snapshot(ready.kvs) == whole


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


def test_a_run_folder_of_another_configuration(ready):
    path = ready.runs()["full"] / "config.json"
    saved = json.loads(path.read_text())
    saved["config"]["seed"] = 5
    path.write_text(json.dumps(saved))
    line = refused(ready, "eval", "--reuse", "full")
    assert "seed=5" in line
    assert "FRESH=1" in line


def test_a_run_folder_of_another_machine(ready):
    path = ready.runs()["full"] / "config.json"
    saved = json.loads(path.read_text())
    saved["machine"]["device"] = "a faster one"
    path.write_text(json.dumps(saved))
    assert "a faster one" in refused(ready, "eval", "--reuse", "full")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"config": 3, "machine": {}}'])
def test_a_damaged_run_configuration(ready, content):
    (ready.runs()["full"] / "config.json").write_text(content)
    assert "FRESH=1" in refused(ready, "eval", "--reuse", "full")


def test_records_without_their_configuration(ready):
    (ready.runs()["full"] / "config.json").unlink()
    assert "FRESH=1" in line_of(ready.run("eval", "--reuse", "full"), "eval")


@pytest.mark.parametrize("line", [b'{"id": "row-', b"[]", b"{}", b"\xff\xfe"])
def test_a_record_damaged_in_the_middle(ready, line):
    path = ready.runs()["full"] / "records.jsonl"
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    told = refused(ready, "eval", "--reuse", "full")
    assert "line 3" in told
    assert "FRESH=1" in told
    ready.ok("eval", "--reuse", "full", "--fresh", "true")
    assert [r["id"] for r in records(ready.runs()["full"])] == ready.ids()


def test_two_evals_in_the_same_folder(ready):
    with (ready.runs()["full"] / "records.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "in use by another eval" in refused(ready, "eval", "--reuse", "full")
        assert "in use" in refused(ready, "eval", "--reuse", "full", "--fresh", "true")
    ready.ok("eval", "--reuse", "full")


def test_a_model_that_fails_its_gate(ready, monkeypatch):
    monkeypatch.setattr("models.gate.TOLERANCE", {torch.float32: 0.0})
    (gate,) = (ready.root / "outputs").glob("*/gate.json")
    gate.unlink()
    line = line_of(ready.run("eval", "--reuse", "debug"), "eval")
    assert "fails its gate" in line
    assert set(ready.runs()) == {"full"}
    assert "fails its gate" in refused(ready, "eval", "--reuse", "debug")  # remembered


def test_the_built_in_sample_is_announced_everywhere(place, monkeypatch):
    monkeypatch.delenv("LONGBENCH_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    place.rows = ""
    warning = "BUILT-IN SAMPLE, NOT THE BENCHMARK"
    assert warning in place.ok("chunk", "--limit", "2", "--max-length", "300").err
    assert warning in place.ok("precompute").err
    outcome = place.ok("eval", "--reuse", "full")
    assert warning in outcome.err
    assert warning in outcome.out
    assert warning in place.result("full")["note"]
    assert warning in (place.runs()["full"] / "result.txt").read_text()
    assert place.result("full")["inputs"]["is_sample"] is True


def test_real_rows_carry_no_warning(prepared):
    assert prepared.result("full")["note"] is None
    assert "SAMPLE" not in (prepared.runs()["full"] / "result.txt").read_text()
