"""The store's bench, at a size at which its figures mean nothing but its counts do."""

from __future__ import annotations

import json

import pytest

from bench.store import growth
from bench.store.growth import ChunkStoreConfig, main
from models.errors import UserError


def test_a_small_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "SAMPLE", 5)
    config = ChunkStoreConfig(
        counts=[80, 40], kvs=str(tmp_path / "kvs"), outputs=str(tmp_path / "outputs")
    )
    main(config)
    rows = json.loads((tmp_path / "outputs" / "bench" / "chunk_store.json").read_text())
    assert [row["chunks"] for row in rows] == [40, 80]
    for row in rows:
        # 5 % that nobody names, and of all bytes a tenth at least, the 5 % among them.
        assert row["chunks"] * 0.1 <= row["removed"] <= row["chunks"] * 0.15 + 1
        assert all(row[name] > 0 for name in ("put_ms", "get_ms", "index_s", "again_s", "gc_s"))
    assert rows[1]["bytes"] > 1.9 * rows[0]["bytes"]
    assert not (tmp_path / "kvs").exists()
    out = capsys.readouterr().out
    assert "chunks" in out
    assert "over 5" in out


def test_counts_below_the_sample_are_refused():
    with pytest.raises(UserError, match="COUNTS=10: give 1000 or more"):
        ChunkStoreConfig(counts=[10])
