"""Marks of a run on the page: a failed gate is held against what it was run with, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from eval.report.page.overview import marks

INT8 = {"name": "int8", "options": {}, "version": 1}
PLAIN = {**INT8, "name": "none"}
KEY = {"weights": "w", "dtype": "torch.float32", "backend": "native", "fast": [], "codec": None}


def gate(passed: bool, code: str = "today", **key: Any) -> dict[str, Any]:
    """An entry of ``gate.json``."""
    distance = {"yesterday": 1e-6, "today": 2e-6}[code]
    outcome = {"item": "a", "passed": passed, "note": None, "checks": [{"distance": distance}]}
    return {"model": "m", "key": {**KEY, "code": code, **key}, "gate": outcome}


def result(code: str = "today", **config: Any) -> dict[str, Any]:
    """A run whose own gate passed."""
    return {
        "config": {"weights": "w", "dtype": "float32", "backend": "native", **config},
        "gate": gate(True, code)["gate"],
        "note": None,
        "oracle": False,
        "revisions": ["abc"],
        "items": [{"page_cache_dropped": True}],
    }


@pytest.mark.parametrize(
    ("run", "failed", "held"),
    [
        (result(), gate(False), True),
        (result(codec_is=PLAIN), gate(False), True),
        (result(codec_is=INT8), gate(False, codec=INT8), True),
        (result(fast=["graphs"]), gate(False, fast=["graphs"]), True),
        (result(), gate(False, "yesterday"), False),
        (result("yesterday"), gate(False), False),
        (result(), gate(False, codec=INT8), False),
        (result(codec_is=INT8), gate(False), False),
        (result(), gate(False, fast=["graphs"]), False),
        (result(fast=["graphs"]), gate(False), False),
        (result(), gate(False, weights="others"), False),
    ],
)
def test_a_failed_gate_marks_the_runs_that_were_made_with_the_same(run, failed, held):
    remembered = [gate(True, code) for code in ("yesterday", "today")]
    words = [word for _, word, _ in marks(run, [*remembered, failed])]
    assert words == (["gate failed"] if held else [])


def test_a_run_whose_own_gate_is_forgotten_is_not_spared():
    """Its code is not known: it may be the one that failed."""
    assert [word for _, word, _ in marks(result(), [gate(False, "yesterday")])] == ["gate failed"]
