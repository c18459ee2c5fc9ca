"""The demo's figures stay what they were: its first needles on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.record import from_line
from kvfuse import __main__ as front
from kvfuse.demo import DEMO

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "demo.json"


def test_the_demo_repeats_and_ends_with_its_report(tmp_path, monkeypatch, capsys):
    """Choices, scores and answers exactly; distances but for what another processor rounds."""
    wanted = json.loads(GOLDEN.read_text(encoding="utf-8"))["needle"]
    named = [word for word in DEMO[0] if not word.startswith("LIMIT=")]
    monkeypatch.chdir(tmp_path)
    # Behind the sink, as when the figures were taken, whatever context a method has of its own.
    given = (f"LIMIT={len(wanted)}", "THREADS=1", "CONTEXT=sink")
    monkeypatch.setattr(front, "DEMO", [(*named, *given)])
    front.demo([])
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "report: outputs/report/index.html (5 finished runs)"
    assert (tmp_path / "outputs" / "report" / "index.html").stat().st_size > 4e6
    found: dict = {}
    for path in tmp_path.glob("outputs/*/needle/*/records.jsonl"):
        config = json.loads((path.parent / "config.json").read_text())["config"]
        method = config["method"].removesuffix(" @ sink")
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
