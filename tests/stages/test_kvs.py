"""What stage 2 keeps, leaves alone, adds and rebuilds."""

from __future__ import annotations

import shutil

import pytest
import torch

from models.kv import store
from tests.stages.harness import snapshot


def test_complete_kvs_are_left_alone(ready):
    before = {path: path.stat().st_mtime_ns for path in ready.kv_files().values()}
    assert "all 5 items are complete" in ready.ok("precompute").out
    assert {path: path.stat().st_mtime_ns for path in ready.kv_files().values()} == before


def test_only_what_is_missing_is_built(ready, prepared):
    first, second, *_ = ready.ids()
    shutil.rmtree(ready.kvs / f"item_{first}")
    ready.kv_files()[second].write_bytes(b"nothing")
    stamps = {path: path.stat().st_mtime_ns for path in ready.kv_files().values()}
    assert "2 of 5" in ready.ok("precompute").out
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)
    changed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [ready.kv_files()[second]]


def test_an_item_does_not_depend_on_its_neighbours(place, prepared):
    shutil.copytree(prepared.root / "inputs", place.root / "inputs")
    for limit in range(1, 6):
        place.ok("precompute", "--limit", limit)
        assert len(place.kv_files()) == limit
    assert snapshot(place.kvs) == snapshot(prepared.kvs)


@pytest.mark.parametrize("name", store.SCORES)
def test_scores_are_added_to_kvs_that_exist(ready, name):
    kvs = {item: path.read_bytes() for item, path in ready.kv_files().items()}
    assert "5 of 5" in ready.ok("precompute", f"--{name}", "true").out
    assert {item: path.read_bytes() for item, path in ready.kv_files().items()} == kvs
    for item in ready.ids():
        folder = ready.kvs / f"item_{item}"
        assert sorted(path.name for path in folder.iterdir()) == sorted([store.KVS, f"{name}.pt"])
        content = torch.load(folder / f"{name}.pt")
        meta = torch.load(folder / store.KVS)["meta"]
        assert content["meta"] == meta
        assert content["chunk_ranges"] == meta["spans"][1:-1]
        scores = content["scores"]
        assert scores.dtype == torch.float32
        assert len(scores) == meta["spans"][-1][1]
        assert (scores >= 0).all()
        for start, end in content["chunk_ranges"]:
            if name == "surprisal":
                assert scores[start] == 0  # nothing came before it
            else:
                assert 0 < scores[start:end].sum() < 1  # the header token in front has the rest
    assert "all 5 items are complete" in ready.ok("precompute", f"--{name}", "true").out


def test_scores_kept_together_are_those_kept_alone(ready, scored):
    """Adding one leaves the other where it is, and both equal what one pass keeps at once."""
    ready.ok("precompute", "--sinks", "true")
    assert "5 of 5" in ready.ok("precompute", "--surprisal", "true").out
    assert snapshot(ready.kvs) == snapshot(scored.kvs)
    assert "all 5 items are complete" in ready.ok("precompute", "--sinks", "true").out


def test_the_stored_tensor_is_what_the_design_says(prepared):
    for path in prepared.kv_files().values():
        content = torch.load(path, mmap=True, weights_only=True)
        tokens = content["meta"]["spans"][-1][1]
        assert content["kv"].shape == (2, 4, 2, tokens, 16)
        assert content["kv"].dtype == torch.float32
        assert torch.isfinite(content["kv"]).all()
