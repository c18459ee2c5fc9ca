"""Where everything is finished, nothing is loaded or drawn, and the same table is printed."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from models.load import weights
from models.sealed import seal
from tests.stages.harness import Workplace, refused

NEEDLES = ("DATASET=needle", "LENGTHS=300", "DEPTHS=0 100")
RUN = ("REUSE=no random", "RATE=.3")


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Where it is remembered what identifies weights."""
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def unloadable(monkeypatch):
    def load(*_):
        raise AssertionError("the weights were loaded")

    return lambda: monkeypatch.setattr(weights, "load", load)


def table(out: str) -> str:
    return out[out.index("full prefill:") :]


@pytest.mark.parametrize("options", [RUN, (*RUN, *NEEDLES)])
@pytest.mark.parametrize("stage", ["eval", "sweep"])
def test_finished_runs_need_no_weights(ready, memory, unloadable, stage, options):
    first = ready.ok(stage, *options)
    files = [path for path in (ready.root / "outputs").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    pictures = {path: path.stat().st_mtime_ns for path in files if path.name == "heatmap.png"}
    assert bool(pictures) == ("DATASET=needle" in options)
    unloadable()
    again = ready.ok(stage, *options)
    assert table(again.out) == table(first.out)
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in pictures} == pictures


def test_one_more_method_leaves_the_others_results_as_they_were(ready, memory):
    ready.ok("eval", *RUN)
    before = (ready.runs()["random"] / "result.json").read_bytes()
    ready.ok("eval", "REUSE=no random full", "RATE=.3", "THREADS=1")
    assert (ready.runs()["random"] / "result.json").read_bytes() == before


def test_a_lost_result_is_made_anew(ready, memory):
    ready.ok("eval", *RUN)
    path = ready.runs()["random"] / "result.json"
    before = json.loads(path.read_text())
    path.write_text("{}")
    ready.ok("eval", *RUN)
    after = json.loads(path.read_text())
    dropped = ("memory_mb", "environment", "throughput", "digest")
    assert {k: v for k, v in after.items() if k not in dropped} == {
        k: v for k, v in before.items() if k not in dropped
    }


def test_a_damaged_memory_is_not_believed(ready, memory):
    ready.ok("eval", *RUN)
    (memo,) = memory.iterdir()
    good = memo.read_bytes()
    for content in (b"", good[: len(good) // 2], good.replace(b"stop_ids", b"stop_idz")):
        memo.write_bytes(content)
        assert "all 5 items are finished" in ready.ok("eval", *RUN).out
        assert memo.read_bytes() == good


def test_a_memory_of_other_weights_is_refused_and_forgotten(ready, memory):
    ready.ok("eval", *RUN)
    (memo,) = memory.iterdir()
    memo.write_text(json.dumps(seal({"fingerprint": "0" * 16, "stop_ids": [2], "linear": ""})))
    said = refused(ready, "eval", "REUSE=debug")
    assert "no longer holds: run it again" in said
    ready.ok("eval", "REUSE=debug")


def test_other_weights_under_the_same_name_are_another_run(ready: Workplace, memory, tmp_path):
    model = tmp_path / "copy"
    shutil.copytree(ready.model, model)
    ready.ok("eval", *RUN, f"MODEL={model}")
    path = model / "model.safetensors"
    tensors, stat = load_file(path), path.stat()
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert "are finished" not in ready.ok("eval", *RUN, f"MODEL={model}").out
