"""Whatever happens to a store, what is read is right, or it is refused in one line."""

from __future__ import annotations

from collections import defaultdict

import pytest

from models.chunks.file import ChunkFile
from models.chunks.index import Index
from tests.faults.chunks.cases import CASES, attempt, plan
from tests.faults.chunks.room import workroom
from tests.faults.verdict import REFUSED, RIGHT, SILENT

COUNT = len(CASES)
BATCHES = defaultdict(list)
for _case in plan(COUNT):
    BATCHES[_case[:2]].append(_case)


@pytest.fixture(scope="module")
def room():
    with workroom() as made:
        yield made


def test_there_are_enough():
    assert len(BATCHES) == len(CASES) > 70
    assert len(plan(400)) == 400


@pytest.mark.parametrize("pair", BATCHES, ids=": ".join)
def test_fault(room, pair):
    found = {case: attempt(room, case) for case in BATCHES[pair]}
    failed = [f"{case}: {v}" for case, v in found.items() if v.outcome not in (RIGHT, REFUSED)]
    assert not failed, "\n".join(failed)


def test_what_nobody_checks_is_noticed(room, monkeypatch):
    """The injector itself: with a check left out it finds what is silent."""
    case = ("chunk", "bit flipped in the payload", "0")
    assert attempt(room, case).outcome == RIGHT
    with monkeypatch.context() as patch:
        patch.setattr(ChunkFile, "verify", lambda self: None)
        assert attempt(room, case).outcome == SILENT
    with monkeypatch.context() as patch:
        patch.setattr(Index, "compare", lambda self, files: None)
        assert attempt(room, ("chunk", "missing", "0")).outcome == SILENT
