"""What Make hands over arrives as it was typed."""

from __future__ import annotations

import subprocess

import pytest

from kvfuse.variables import from_make, remember, remembered


@pytest.mark.parametrize(
    "value",
    ["0.15", "/a b/c", "it's", 'say "no"', "$HOME/x", "$(x)", "a\\b", "a;b&c|d", "ä=b"],
)
def test_every_value_passes_through_make(tmp_path, value):
    makefile = tmp_path / "Makefile"
    makefile.write_text('show:\n\t@printf "%s" "$$MAKEFLAGS"\n', encoding="utf-8")
    run = subprocess.run(
        ["make", "-s", "-f", str(makefile), "show", f"INPUTS={value}", "RATE=.5", "PYTHON=py"],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "LIMIT": "3"},
    )  # fmt: skip
    assert sorted(from_make(run.stdout)) == sorted([f"INPUTS={value}", "RATE=.5"])


@pytest.mark.parametrize("flags", ["", "s", " -j2 --jobserver-auth=3,4", "n --no-print-directory"])
def test_flags_without_variables(flags):
    assert from_make(flags) == []


def test_the_last_names_are_remembered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert remembered() == {}
    remember("smollm2-135m", "a b.jsonl")
    assert remembered() == {"model": "smollm2-135m", "dataset": "a b.jsonl"}


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"model": 3}', "\x00"])
def test_a_damaged_memory_is_none(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".last.json").write_text(damage, encoding="utf-8")
    assert remembered() == {}
