"""Every remedy that an error names, done as it says, mends what the error is about."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from eval import gating
from eval.evaluator import Evaluator
from kvfuse.variables import from_make
from stage.config import PrecomputeConfig
from stage.options import parse
from tests.stages.harness import (
    DATASET,
    Workplace,
    line_of,
    make_tokenizer,
    pasted,
    records,
    run_gate,
)
from tests.stages.test_bad_input import resealed

OWN = {"question": "Who came first?", "context": "The river is old. " * 30, "answer": "The river"}


@pytest.fixture
def odd(tmp_path, model_folder, rows_folder) -> Workplace:
    """Folders whose names a shell, Make and a list of words could each misread."""
    root = tmp_path / 'it\'s a, "b" $HOME $(x) #1'
    model = shutil.copytree(model_folder, root / "models" / "tiny=1")
    return Workplace(root / "work", model, shutil.copytree(rows_folder, root / "rows"))


@pytest.fixture
def own(odd) -> Workplace:
    """The same with a file of one's own."""
    path = odd.root.parent / "my rows.jsonl"
    path.write_text(json.dumps(OWN) + "\n", encoding="utf-8")
    odd.settings |= {"dataset": shlex.quote(str(path)), "longbench_dir": None}
    return odd


def vanishing(place: Workplace, monkeypatch, name: str, *call: str) -> str:
    """The line of a run whose file of an item vanishes after its check."""
    original = Evaluator.check

    def check(self, item):
        original(self, item)
        (self.session.folder(item) / name).unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "check", check)
        return line_of(place.run(*call), call[0])


# Commands


@pytest.mark.parametrize("stage", ["eval", "sweep"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kvs.pt", ["REUSE=random"]),
        ("kvs.pt", ["REUSE=random", "CHUNKING=passage", "LIMIT=3", "MAX_LENGTH=200", "CHAT=0"]),
        ("kvs.pt", ["REUSE=random", "DTYPE=bfloat16", "SURPRISAL=1", "SEED=3"]),
        ("kvs.pt", ["REUSE=surprisal_chunk attnlink"]),
        ("surprisal.pt", ["REUSE=surprisal_chunk"]),
        ("surprisal.pt", ["REUSE=surprisal_chunk", "SURPRISAL=1"]),
        ("surprisal.pt", ["REUSE=surprisal_chunk", "SURPRISAL=0", "SINKS=0"]),
        ("sinks.pt", ["REUSE=surprisal_chunk attnlink", "SINKS=1"]),
    ],
)
def test_the_command_that_builds_a_missing_file(odd, monkeypatch, stage, name, options):
    call = [stage, "RATE=.2", *options]
    line = vanishing(odd, monkeypatch, name, *call)
    assert f"{name} is missing; build it: make precompute " in line
    outcome = pasted(line)
    assert outcome.code == 0, outcome.err
    count = 3 if "LIMIT=3" in options else 5
    assert f"{count} of {count} items to build ({count} missing)" in outcome.out
    assert f"precompute: all {count} items are complete" in odd.ok(*call).out


@pytest.mark.parametrize("more", [[], ['PROMPT=Read {context} and say it\'s "{question}" for $1']])
def test_the_command_for_documents_of_one_s_own(own, monkeypatch, more):
    line = vanishing(own, monkeypatch, "kvs.pt", "eval", "REUSE=random", *more)
    outcome = pasted(line)
    assert outcome.code == 0, outcome.err
    assert "1 of 1 items to build (1 missing)" in outcome.out
    assert "items to build" not in own.ok("eval", "REUSE=random", *more).out


def test_the_command_for_one_of_several_datasets(own, monkeypatch):
    """An option that goes with one of them goes with the list."""
    datasets = f"needle {own.settings['dataset']}"
    own.settings |= {"dataset": datasets, "lengths": "600", "depths": "0 50"}
    call = ("eval", "REUSE=random", "PROMPT=Read {context}; {question}")
    outcome = pasted(vanishing(own, monkeypatch, "kvs.pt", *call))
    assert outcome.code == 0, outcome.err
    assert "2 of 2 items to build (2 missing)" in outcome.out
    assert "items to build" not in own.ok(*call).out


def test_the_command_of_a_report_without_runs(own):
    line = line_of(own.run("report"), "report")
    assert "no finished run in " in line
    outcome = pasted(line)
    assert outcome.code == 0, outcome.err
    assert "debug 0.15" in own.ok("report").out


def test_the_command_of_a_gate_that_failed(odd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("models.gate.TOLERANCE", {torch.float32: -1.0})
        line = line_of(odd.run("eval", "REUSE=full"), "eval")
        assert "fails its gate" in line
        outcome = pasted(line)
        assert outcome.code == 2
        assert outcome.out.count("FAIL  ") == 3
    assert "fails its gate" in line_of(odd.run("eval", "REUSE=full"), "eval")
    Path(re.findall(r"remove (.*) to try again", line)[0]).unlink()
    odd.ok("eval", "REUSE=full")


@pytest.mark.parametrize(
    "value", ["a b", "it's", 'say "no"', "$HOME", "$(x)", "$$", "a\\b", "#1;&"]
)
def test_a_command_survives_shell_and_make(tmp_path, value):
    (tmp_path / "Makefile").write_text('precompute:\n\t@printf "%s" "$$MAKEFLAGS"\n')
    given = [f"KVS={value}", f"PROMPT={value} {{context}}", "LIMIT=3"]
    command = parse(PrecomputeConfig, given).command("precompute", surprisal=1)
    assert command.startswith("make precompute ")
    # As typed into a shell: a make that runs these tests would have the inner one say where it is.
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    made = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=outside,
    )
    words = from_make(made.stdout)
    named = [word for word in words if not word.startswith(("MODEL=", "DATASET="))]
    assert sorted(named) == sorted([*given, "SURPRISAL=1"])


# Starting over


def renamed(folder: Path) -> None:
    """Another run's folder under this one's name."""
    resealed(folder / "config.json", "config", seed=5)


def elsewhere(folder: Path) -> None:
    resealed(folder / "config.json", "machine", device="a faster one")


def torn(folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(path.read_bytes()[:-9])


def without(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("stage", ["eval", "sweep"])
@pytest.mark.parametrize("damage", [renamed, elsewhere, torn, without])
def test_a_run_is_started_over(ready, stage, damage):
    call = (stage, "REUSE=random", "RATE=.2")
    ready.ok(*call)
    damage(ready.runs()["random"])
    line = line_of(ready.run(*call), stage)
    (word,) = re.findall(r"start over with (\w+=\w+)", line)
    assert "resuming" not in ready.ok(*call, word).out
    assert [record["id"] for record in records(ready.runs()["random"])] == ready.ids()
    ready.ok(*call)


@pytest.mark.parametrize("damage", [renamed, elsewhere])
def test_a_run_in_another_folder(ready, tmp_path, damage):
    damage(ready.runs()["full"])
    assert "or name another OUTPUTS=" in line_of(ready.run("eval", "REUSE=full"), "eval")
    ready.ok("eval", "REUSE=full", f"OUTPUTS={tmp_path / 'other'}")


def test_a_damaged_result_is_written_anew_by_the_same_call(ready):
    path = ready.runs()["full"] / "result.json"
    path.write_text(path.read_text().replace('"n": 5', '"n": 6'))
    assert "the same make eval writes it anew" in ready.run("report").err
    ready.ok("eval", "REUSE=full")
    assert ready.ok("report").err == ""


# Numbers


def give(line: str) -> list[int]:
    """The two ends of what a line says may be given."""
    (ends,) = re.findall(r"give (\d+) to (\d+)", line)
    return list(map(int, ends))


@pytest.mark.parametrize("stage", ["chunk", "eval"])
@pytest.mark.parametrize("value", ["993", "100000", "0", "-1"])
def test_the_room_of_a_model(ready, stage, value):
    line = line_of(ready.run(stage, f"MAX_LENGTH={value}"), stage)
    _, most = give(line)
    ready.ok(stage, f"MAX_LENGTH={most}")
    assert give(line_of(ready.run(stage, f"MAX_LENGTH={most + 1}"), stage))[1] == most


def test_the_room_of_a_question(ready):
    """Each item that is in the way says what it takes; with all of that none is."""
    value = 1
    for _ in range(6):
        outcome = ready.run("chunk", f"MAX_LENGTH={value}")
        if outcome.code == 0:
            break
        line = line_of(outcome, "chunk")
        assert "more than MAX_LENGTH allows; raise it" in line
        (needed,) = map(int, re.findall(r"alone take (\d+) tokens", line))
        assert needed > value
        value = needed
    ready.ok("eval", "REUSE=no full random", f"MAX_LENGTH={value + 1}")


@pytest.mark.parametrize("value", [800, 900, 1000])
def test_the_room_of_an_answer(ready, value):
    call = ("eval", "REUSE=full", "LIMIT=1")
    line = line_of(ready.run(*call, f"MAX_NEW_TOKENS={value}"), "eval")
    (most,) = map(int, re.findall(r"give (\d+) or less", line))
    shorter = re.findall(r"or (MAX_LENGTH=\d+)$", line)
    assert bool(shorter) == (value < 1000)  # the question alone takes more than the rest
    for word in shorter:
        ready.ok(*call, f"MAX_NEW_TOKENS={value}", word)
    ready.ok(*call, f"MAX_NEW_TOKENS={most}")
    assert ready.run(*call, f"MAX_NEW_TOKENS={most + 1}").code == 2


@pytest.mark.parametrize("stage", ["precompute", "eval", "gate"])
def test_the_threads_of_this_machine(ready, stage, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    for value in (0, 100_000):
        line = line_of(ready.run(stage, f"THREADS={value}"), stage)
        for count in give(line):
            ready.ok(stage, f"THREADS={count}")


def test_the_lengths_of_needles(place):
    place.settings |= {"dataset": "needle", "depths": "50"}
    line = line_of(place.run("chunk", "LENGTHS=5000"), "chunk")
    (most,) = map(int, re.findall(r"may have 1 to (\d+) tokens", line))
    place.ok("chunk", f"LENGTHS={most}")
    line = line_of(place.run("chunk", "LENGTHS=1"), "chunk")
    (least,) = map(int, re.findall(r"its prompt alone takes (\d+) tokens", line))
    place.ok("chunk", f"LENGTHS={least}")


def test_the_fewest_items(ready):
    line = line_of(ready.run("eval", "LIMIT=0"), "eval")
    (least,) = map(int, re.findall(r"give (\d+) or more", line))
    ready.ok("eval", "REUSE=full", f"LIMIT={least}")


# Room


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("stage", ["precompute", "eval"])
@pytest.mark.parametrize("remedy", ["LIMIT=1", "DTYPE=bfloat16", "KVS={elsewhere}"])
def test_too_little_room_on_the_disk(place, tmp_path, monkeypatch, stage, remedy):
    large = tmp_path / "elsewhere"
    large.mkdir()
    free = (64 << 20) + 500_000  # what is kept free, and half of what the items take
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: Usage(0, 0, 1 << 40 if Path(path).is_relative_to(large) else free),
    )
    line = line_of(place.run(stage), stage)
    assert "set LIMIT= to fewer items, DTYPE=bfloat16, or KVS= to a folder on a larger disk" in line
    place.ok(stage, remedy.format(elsewhere=large))


@pytest.mark.parametrize("stage", ["precompute", "gate"])
def test_too_little_memory(ready, monkeypatch, stage):
    weights = (ready.model / "model.safetensors").stat().st_size
    free = namedtuple("Memory", "available")(weights * 3 // 4)
    monkeypatch.setattr("models.load.weights.psutil.virtual_memory", lambda: free)
    monkeypatch.setattr(gating, "run", run_gate)  # one that passed before loads no weights
    line = line_of(ready.run(stage), stage)
    assert "DTYPE=bfloat16" in line
    ready.ok(stage, "DTYPE=bfloat16")


@pytest.mark.parametrize(
    ("stage", "name"), [("chunk", "inputs"), ("precompute", "kvs"), ("eval", "outputs")]
)
def test_a_folder_that_cannot_be_written(ready, tmp_path, stage, name):
    (tmp_path / "file").write_text("in the way")
    variable = name.upper()
    line = line_of(ready.run(stage, f"{variable}={tmp_path / 'file' / 'below'}"), stage)
    assert f"{variable}=" in line.partition("name another folder")[2]
    ready.ok(stage, f"{variable}={tmp_path / 'another'}")


# Names


@pytest.mark.parametrize(
    ("stage", "word", "says", "mended"),
    [
        ("eval", "RATIO=.2", "did you mean RATE", "RATE=.2"),
        ("eval", "CHECK_LAYERS=1", "did you mean CHECK_LAYER", "CHECK_LAYER=1"),
        ("chunk", "CHUNKSIZE=20", "did you mean CHUNK_SIZE", "CHUNK_SIZE=20"),
        ("precompute", "SURPRISE=1", "did you mean SURPRISAL", "SURPRISAL=1"),
        ("eval", "REUSE=debugg", "did you mean debug", "REUSE=debug"),
        ("eval", "rate=.2", "upper case: RATE=.2", "RATE=.2"),
        ("eval", f"DATASET={DATASET}a", f"did you mean {DATASET}", f"DATASET={DATASET}"),
    ],
)
def test_the_nearest_name(ready, stage, word, says, mended):
    assert says in line_of(ready.run(stage, word), stage)
    ready.ok(stage, mended)


@pytest.mark.parametrize("word", ["CHUNK_SIZE=", "LIMIT= ", "LENGTHS=,"])
def test_what_has_no_value_is_left_out(ready, word):
    assert "leave it out for its default" in line_of(ready.run("chunk", word), "chunk")
    ready.settings = {}
    ready.ok("chunk")


def test_the_sample_that_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(place.root))
    rows, place.rows = place.rows, None
    line = line_of(place.run("chunk", "SAMPLE=0"), "chunk")
    assert "set LONGBENCH_DIR to a folder with LongBench's jsonl files" in line
    place.ok("chunk", "SAMPLE=0", f"LONGBENCH_DIR={rows}")


def test_positions_that_lack_an_item(ready):
    path = ready.root / "positions.json"
    path.write_text(json.dumps({"row-0": [40]}))
    line = line_of(ready.run("eval", "REUSE=attnlink", f"POSITIONS={path}"), "eval")
    assert "has no item row-1; add it, or leave POSITIONS= out" in line
    path.write_text(json.dumps({item: [40] for item in ready.ids()}))
    ready.ok("eval", "REUSE=attnlink", f"POSITIONS={path}")
    ready.ok("eval", "REUSE=attnlink")


def test_a_chat_template_that_repeats_the_message(place, tmp_path):
    place.model = shutil.copytree(place.model, tmp_path / "twice")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
    tokenizer.save_pretrained(place.model)
    assert "use CHAT=0 for a plain prompt" in line_of(place.run("eval"), "eval")
    place.ok("eval", "CHAT=0")


@pytest.mark.parametrize("option", ["DEVICE=gpu9", "DTYPE=int8", "BACKEND=magic", "DTYPE=float16"])
def test_where_a_model_runs(ready, option):
    line = line_of(ready.run("precompute", option), "precompute")
    name = option.partition("=")[0]
    offered = re.findall(r"[\w]+", line.partition("use ")[2])
    here = [word for word in offered if word in ("auto", "cpu", "float32", "bfloat16", "sdpa")]
    assert here
    for word in here:
        ready.ok("precompute", f"{name}={word}")
