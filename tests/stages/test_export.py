"""KVs from one layout into the other and back, the plan, and stores that lie elsewhere."""

from __future__ import annotations

import re
import shutil

import pytest

from models.kv import capture as capture_module
from tests.stages.harness import STAGES, line_of, records, timeless

STORE = "STORE=chunks"


@pytest.fixture(autouse=True)
def actions(monkeypatch):
    """``kvfuse store export`` and ``plan``, as the harness calls stages."""
    from bench.store.plan import PlanConfig
    from bench.store.plan import main as plan
    from store.export import ExportConfig
    from store.export import main as export

    monkeypatch.setitem(STAGES, "export", (ExportConfig, export, None))
    monkeypatch.setitem(STAGES, "plan", (PlanConfig, plan, None))


@pytest.fixture
def nothing_runs(monkeypatch):
    """No chunk may be run from here on."""

    def fail(*_):
        raise AssertionError("a chunk was run")

    monkeypatch.setattr(capture_module, "_run", fail)


def files(place, pattern: str) -> dict[str, bytes]:
    kvs = place.root / "kvs"
    return {str(path.relative_to(kvs)): path.read_bytes() for path in kvs.glob(pattern)}


def test_items_become_chunks_and_chunks_items(with_scores, nothing_runs):
    """Surprisal and sinks go along, and what comes back is byte by byte what was there."""
    place = with_scores
    whole = files(place, "*/*/item_*/*.pt")
    assert len(whole) == 15
    out = place.ok("export", "TO=chunks").out
    assert "5 of 5 items" in out
    assert "all 5 items are complete" in place.ok("precompute", STORE, "SURPRISAL=1", "SINKS=1").out
    assert "0 of 5 items" in place.ok("export", "TO=chunks").out
    for name in whole:
        (place.root / "kvs" / name).unlink()
    assert "5 of 5 items" in place.ok("export", "TO=item").out
    assert files(place, "*/*/item_*/*.pt") == whole
    assert "all 5 items are complete" in place.ok("precompute", "SURPRISAL=1", "SINKS=1").out


def test_an_export_under_a_codec_is_what_precompute_would_keep(ready):
    ready.ok("export", "TO=chunks", "CODEC=int8 int4")
    exported = files(ready, "*/chunks/*/*.safetensors")
    shutil.rmtree(next((ready.root / "kvs").glob("*/chunks")))
    ready.ok("precompute", STORE, "CODEC=int8 int4")
    assert files(ready, "*/chunks/*/*.safetensors") == exported


def test_what_would_mislead_is_not_exported(ready):
    def said(*options: str) -> str:
        return line_of(ready.run("export", *options), "export")

    assert "KVs as they were computed" in said("TO=item", "CODEC=int8")
    assert "give item or chunks" in said("TO=pieces")
    assert "TO=item or TO=chunks instead" in said("TO=item", "STORE=chunks")
    line = said("TO=item", "CONTEXT=prefix")  # nothing is there in either layout
    assert "missing" in line
    assert "make precompute" in line


def test_the_plan_counts_what_precompute_will_run(place):
    out = place.ok("plan", "SAMPLES=0", "CODEC=none int8").out
    row = next(line.split() for line in out.splitlines() if line.startswith("2wikimqa"))
    items, uses, different, _, held, once = row[1:7]
    said = place.ok("precompute", STORE).out
    assert f"{different} of {different} chunks new, {once} of {once} tokens" in said
    assert int(items) == 5
    assert int(uses) > int(different)  # the prefix is in every item
    whole = place.ok("precompute").out
    assert f"{held} tokens" in whole
    assert float(row[9]) > float(row[10])  # GB under none and int8
    assert not list((place.root / "kvs").glob(".plan-*"))


def test_the_plan_measures_a_saving(place):
    out = place.ok("plan", "SAMPLES=1", "ROUNDS=1", "CODEC=none int8", "REUSE=full").out
    rows = [line.split() for line in out.splitlines()]
    head = next(row for row in rows if row[:1] == ["codec"])
    assert {"saves", "pays", "load"} <= set(head)
    assert [row[0] for row in rows if row and row[0] in ("none", "int8")] == ["none", "int8"]
    assert re.search(r"chunks at \d+ tokens/s", out)
    assert not list((place.root / "kvs").glob("**/*.safetensors"))


def test_a_store_may_lie_elsewhere(place):
    """The same figures from a URL; a file an item needs a folder."""
    url = "KVS=memory://elsewhere"
    line = line_of(place.run("precompute", url), "precompute")
    assert "needs STORE=chunks" in line
    place.ok("precompute", url, STORE, "LIMIT=2")
    again = place.ok("precompute", url, STORE, "LIMIT=2").out
    assert "all 2 items are complete in memory://" in again
    place.ok("eval", url, STORE, "LIMIT=2", "REUSE=full")
    there = [timeless(record) for record in records(place.runs()["full"])]
    shutil.rmtree(place.root / "outputs")
    place.ok("eval", STORE, "LIMIT=2", "REUSE=full")
    assert there == [timeless(record) for record in records(place.runs()["full"])]
