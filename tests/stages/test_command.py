"""The command itself, in a process of its own: what it refuses at once, takes and remembers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfuse.__main__ import COMMANDS, main
from tests.stages.harness import DATASET, Workplace

ROOT = Path(__file__).resolve().parent.parent.parent
QUICK = """
import contextlib, io, json, sys
from kvfuse.__main__ import main

for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
"""
# What can be refused, or told, before a library is imported that takes seconds.
REFUSED = {
    "unknown command 'evall': did you mean eval?": ["evall"],
    "unknown command 'xyzzy': choose from chunk, precompute, eval": ["xyzzy", "LIMIT=2"],
    "unknown dataset '2wikimqq'": ["eval", "DATASET=2wikimqq"],
    "did you mean needle": ["sweep", "--dataset", "2wikimqa,nedle"],
    "unknown model 'smolm2-135'": ["eval", "MODEL=smolm2-135"],
    "./nowhere': no such folder": ["precompute", "--model=./nowhere"],
    "gone.jsonl": ["eval", "DATASET=gone.jsonl"],
    "unknown variable LIMITS: did you mean LIMIT?": ["chunk", "LIMITS=2"],
    "unknown variable REUSE": ["precompute", "REUSE=debug"],
    "unknown variable RATE: see --help": ["report", "RATE=.5"],
    "variables are upper case: RATE=.5": ["eval", "rate=.5"],
    "RATE=2.0 is outside [0, 1]": ["eval", "RATE=2"],
    "LIMIT='many': give a whole number": ["sweep", "LIMIT=many"],
    "LIMIT= has no value": ["eval", "LIMIT="],
    "LIMIT is named twice": ["chunk", "LIMIT=2", "--limit", "3"],
    "'2wikimqa' is neither VARIABLE=value nor --option": ["chunk", "2wikimqa"],
    "the demo takes no variables": ["demo", "LIMIT=2"],
}


def environment(**changes: str) -> dict[str, str]:
    """Nothing of the caller's that is a variable of ours."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return kept | ours | changes


def process(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    return subprocess.run(
        arguments, cwd=folder, env=environment(**changes), capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict[str, list]:
    """Of each call: exit code, what it printed, and whether torch is there since."""
    calls = [*REFUSED.values(), [], ["help"], ["chunk", "--help"]]
    folder = tmp_path_factory.mktemp("quick")
    ended = process(folder, sys.executable, "-c", QUICK, json.dumps(calls))
    assert ended.returncode == 0, ended.stderr
    found = map(json.loads, ended.stdout.splitlines())
    return {json.dumps(call): ended for call, ended in zip(calls, found, strict=True)}


@pytest.mark.parametrize("says", REFUSED)
def test_a_mistake_is_told_at_once(quick, says):
    code, out, err, torch = quick[json.dumps(REFUSED[says])]
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
    name = REFUSED[says][0]
    assert line.startswith(f"{name if name in COMMANDS or name == 'demo' else 'kvfuse'}: ")
    assert not torch


def test_the_overview_comes_at_once(quick):
    for call, code in (([], 2), (["help"], 0)):
        ended = quick[json.dumps(call)]
        assert (ended[0], ended[2], ended[3]) == (code, "", False)
        assert all(f"\n  {name} " in ended[1] for name in [*COMMANDS, "demo"])
    code, out, _, torch = quick[json.dumps(["chunk", "--help"])]
    assert (code, torch) == (0, False)
    assert "CHUNK_SIZE" in out


@pytest.fixture
def words(place) -> list[str]:
    """What a call of ``chunk`` names."""
    return place.argv("chunk")[1:]


def items(place: Workplace) -> list[int]:
    """How many items each inputs file has."""
    return sorted(len(p.read_bytes().splitlines()) for p in place.root.rglob("*.jsonl"))


def test_a_mistyped_variable_of_an_evaluation(tmp_path):
    """Only the methods know all names, so this takes as long as importing them."""
    ended = process(tmp_path, sys.executable, "-m", "kvfuse", "eval", "RATIO=.5")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "eval: unknown variable RATIO: did you mean RATE?\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def call(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, in an empty folder; returns its code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", environment())

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


def test_the_environment_is_noted_and_not_taken(place, call, words, monkeypatch):
    monkeypatch.setitem(os.environ, "LIMIT", "2")
    monkeypatch.setitem(os.environ, "REUSE", "debug")  # no option of this command
    code, _, err = call("chunk", *words)
    note = "note: LIMIT in the environment is not taken; name it after the command\n"
    assert (code, err) == (0, note)
    assert items(place) == [5]
    code, _, err = call("chunk", *words, "LIMIT=3")  # it is named, so there is nothing to note
    assert (code, err) == (0, "")
    assert items(place) == [3, 5]


def test_model_and_dataset_are_those_named_last(place, call, words):
    """And nothing else is; a call that was refused leaves nothing behind."""
    rest = [word for word in words if not word.startswith(("MODEL=", "DATASET="))]
    assert call("chunk", *words, "LIMIT=2")[0] == 0
    assert call("chunk", *rest, "DATASET=samsum", "LIMIT=0")[0] == 2
    code, out, _ = call("chunk", *rest)
    assert code == 0
    named = f"chunk: MODEL={place.model} DATASET={DATASET} (MODEL and DATASET as last time)\n"
    assert out.startswith(named)
    assert items(place) == [2, 5]
    assert f"Last named: MODEL={place.model} DATASET={DATASET}." in call("help")[1]
    Path(".last.json").write_text('{"model": "smolm2", "dataset": "2wikimqa"}')
    code, _, err = call("chunk", *rest)
    assert code == 2
    assert "unknown model 'smolm2'" in err


def test_the_whole_way_in_one_command(place, call):
    code, out, err = call("eval", *place.argv("eval", "REUSE=no debug")[1:])
    assert (code, err) == (0, "")
    assert "\ndebug 0.15 " in out
    code, out, err = call("report", f"OUTPUTS={place.root / 'outputs'}")
    assert (code, err) == (0, "")
    assert "\ndebug 0.15 " in out


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The Makefile beside an environment that is there already."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / ".ready-dev").touch()
    return tmp_path


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_hands_over_every_word(place, checkout, words):
    """Blanks, quotes and dollars too; what the environment has is noted and not taken."""
    inputs = checkout / 'it\'s $HOME $(x) "here"'
    named = [word for word in words if not word.startswith("INPUTS=")]
    call = ("make", "EXTRAS=dev", "chunk", *named, f"INPUTS={inputs}", "LIMIT=2")
    ended = process(checkout, *call, CHUNK_SIZE="9", CHAT="0")
    assert ended.returncode == 0, ended.stderr
    (line,) = re.findall("^inputs: .*", ended.stdout, re.MULTILINE)
    assert "LIMIT=2 CHUNK_SIZE=24 LONGBENCH_DIR=" in line
    assert ended.stderr == (
        "note: CHAT in the environment is not taken; name it after the target\n"
    )
    (path,) = inputs.rglob("*.jsonl")
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("LIMIT=", "chunk: LIMIT= has no value; leave it out for its default"),
        ("LIMITS=2", "chunk: unknown variable LIMITS: did you mean LIMIT?"),
    ],
)
def test_make_tells_a_mistake_in_one_line_of_ours(checkout, word, says):
    ended = process(checkout, "make", "EXTRAS=dev", "chunk", word, LIMIT="3")
    assert ended.returncode == 2
    assert [line for line in ended.stderr.splitlines() if not line.startswith("make")] == [says]
