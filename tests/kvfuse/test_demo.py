"""The demo's figures stay what they were: its first needles on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.record import from_line
from kvfuse.__main__ import run
from kvfuse.demo import DEMO

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "demo.json"


def test_the_demo_repeats(tmp_path, monkeypatch):
    """Choices, scores and answers exactly; distances but for what another processor rounds."""
    wanted = json.loads(GOLDEN.read_text(encoding="utf-8"))["needle"]
    named = [word for word in DEMO[0] if not word.startswith("LIMIT=")]
    folders = [f"{name}={tmp_path / name.lower()}" for name in ("INPUTS", "KVS", "OUTPUTS")]
    monkeypatch.chdir(tmp_path)
    run("eval", [*named, *folders, f"LIMIT={len(wanted)}", "THREADS=1"], remembers=False)
    found: dict = {}
    for path in tmp_path.glob("outputs/*/needle/*/records.jsonl"):
        method = json.loads((path.parent / "config.json").read_text())["config"]["method"]
        for line in path.read_bytes().splitlines():
            record = from_line(line)
            found.setdefault(record["id"], {})[method] = record
    assert found.keys() == wanted.keys()
    for item, methods in wanted.items():
        assert found[item].keys() == methods.keys()
        for method, before in methods.items():
            now = found[item][method]
            for key, value in before.items():
                same = pytest.approx(value, rel=1e-3, abs=1e-6) if "kl" in key else value
                assert now[key] == same, (item, method, key)
