"""``kvfuse store``: what it says against what is there, and what it removes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from kvfuse.__main__ import main
from models.chunks.store import ChunkStore
from models.chunks.wire import Patience

HOUR = 3600 * 10**9


def key(number: int) -> str:
    return f"{number:064x}"


def put(store: ChunkStore, *numbers: int) -> int:
    """Chunks of sizes that differ; the last one's bytes."""
    size = 0
    for number in numbers:
        store.put(key(number), {"000.k.rows": torch.ones(100 * (number + 1))}, {})
        size = store.open(key(number)).nbytes
    return size


def age(store: ChunkStore, number: int, hours: float) -> None:
    """As if it was made, and used last, so long ago."""
    then = time.time_ns() - round(hours * HOUR)
    os.utime(store.open(key(number)).path, ns=(then, then))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["store", *words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def one(tmp_path):
    """Two datasets that share a chunk, one chunk twice in an item, and one that nobody names."""
    store = ChunkStore(tmp_path / "kvs" / "one" / "chunks")
    put(store, 1, 2, 3, 4)
    store.refer("a/item_1", [key(1), key(2), key(1)])
    store.refer("b/item_1", [key(2), key(3)])
    for number in (1, 2, 3, 4):
        age(store, number, 10 - number)
    return store


@pytest.fixture
def two(tmp_path, one):
    store = ChunkStore(tmp_path / "kvs" / "two" / "chunks")
    put(store, 5)
    store.refer("a/item_1", [key(5), key(6)])
    age(store, 5, 8.5)
    return store


def cells(text: str) -> list[list[str]]:
    """The rows of a table whose columns are two blanks apart."""
    lines = text.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def held(store: ChunkStore) -> list[int]:
    return sorted(int(path.stem, 16) for path in Path(store.root).glob("*/*.safetensors"))


def test_ls(call, two, one):
    def size(*numbers: int) -> str:
        paths = [path for n in numbers for path in Path(one.root).glob(f"*/{key(n)}*")]
        total = sum(path.stat().st_size for path in paths)
        return f"{total / 1000:.2f} kB"

    code, out, err = call("ls")
    assert (code, err) == (0, "")
    rows = cells(out)
    assert rows[1] == ["one", "a", "1", "2", size(1, 2, 1), size(1, 2), rows[1][6], size(2), "-"]
    assert rows[2] == ["one", "b", "1", "2", size(2, 3), size(2, 3), "1.00x", size(2), "-"]
    assert rows[3] == ["one", "(nobody)", "-", "1", "-", size(4), "-", "-", "-"]
    assert rows[4][:6] == ["one", "= all", "2", "4", size(1, 2, 1, 2, 3), size(1, 2, 3, 4)]
    assert rows[5][:4] == ["two", "a", "1", "1"]
    assert rows[5][-1] == "1"
    assert len(rows) == 7
    assert call("ls", "MODEL=two")[1].splitlines()[1].startswith("two")
    assert "there are one, two" in call("ls", "MODEL=three")[2]


def test_stat(call, one):
    code, out, err = call("stat")
    assert (code, err) == (0, "")
    total = sum(path.stat().st_size for path in Path(one.root).glob("*/*.safetensors"))
    said = {line[:30].strip(): line[30:].strip() for line in out.splitlines()}
    assert said["chunks"] == f"4, {total / 1000:.2f} kB"
    assert said["referred to by nobody"].startswith("1, ")
    assert said["deduplication ratio"].endswith("x")
    assert "manifests that cannot be read  0" in out


def test_verify(call, one, two):
    code, out, err = call("verify", "MODEL=one")
    assert (code, err) == (0, "")
    assert out.startswith("store: one: 4 of 4 chunks, ")
    path = one.open(key(2)).path
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, out, err = call("verify")
    assert code == 2
    assert err == "store: 2 things are not as they were written; make precompute mends them\n"
    assert f"store: {path.relative_to(Path.cwd())} is damaged (its bytes are not those" in out
    assert "store: two/a names 1 chunks that are not there\n" in out
    assert "store: one: 3 of 4 chunks, " in out


def test_gc_removes_what_nobody_names_once_it_is_old(call, one):
    put(one, 7)
    age(one, 4, 2)
    one.has(key(4))
    assert "removed 0 chunks" in call("gc")[1]
    age(one, 4, 2)
    code, out, _ = call("gc", "DRY=1")
    assert code == 0
    assert "referred to by nobody: would remove 1 chunks, " in out
    assert held(one) == [1, 2, 3, 4, 7]
    code, out, _ = call("gc")
    assert (code, held(one)) == (0, [1, 2, 3, 7])
    assert "referred to by nobody: removed 1 chunks, " in out
    assert call("gc", "GRACE=0")[0] == 0
    assert held(one) == [1, 2, 3]
    assert one.manifest("a/item_1")["chunks"] == [key(1), key(2), key(1)]


def test_a_budget_takes_the_least_recently_used_of_all_models(call, one, two):
    paths = {int(path.stem, 16): path for path in Path.cwd().glob("kvs/*/*/*/*.safetensors")}
    sizes = {number: path.stat().st_size for number, path in paths.items()}
    # Last used: 1 nine hours ago, then 5, 2, 3; 4 is named by nobody.
    budget = sizes[2] + sizes[3] + sizes[5] - 1
    code, out, _ = call("gc", f"BYTES={budget}")
    assert code == 0
    assert (held(one), held(two)) == ([2, 3], [])
    assert "not used longest: removed 2 chunks" in out
    assert f"{(sizes[2] + sizes[3]) / 1000:.2f} kB remain" in out


def test_what_was_used_since_or_is_pinned_stays(call, one, monkeypatch):
    with one.pin([key(1)]):
        code, out, err = call("gc", "BYTES=1")
    assert code == 2
    assert held(one) == [1]
    assert "1 in use stay" in out
    assert err.startswith("store: ")
    assert "more than BYTES=1: they are in use" in err


def test_gc_refuses_where_a_manifest_cannot_be_read(call, one):
    path = Path(one.root).parent / "b" / "item_1" / "kvs.json"
    path.write_text("{")
    code, out, err = call("gc", "BYTES=1", "GRACE=0")
    assert (code, out) == (2, "")
    assert err.startswith("store: nothing was removed: 1 manifests cannot be read")
    assert held(one) == [1, 2, 3, 4]
    assert call("rm", "DATASET=b")[0] == 0
    assert call("gc")[0] == 0
    assert held(one) == [1, 2]


def test_gc_removes_what_dead_processes_left(call, one):
    left = [
        one.open(key(1)).path.parent / ".x.safetensors.host.1.2.tmp",
        Path(one.root) / ".index.sqlite.blake3.host.1.2.tmp",
        Path(one.root).parent / "a" / "item_1" / ".kvs.json.host.1.2.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    young = left[0].with_name(".y.safetensors.host.1.2.tmp")
    young.touch()
    assert "3 files of dead processes" in call("gc", "DRY=1")[1]
    assert "3 files of dead processes" in call("gc")[1]
    assert [path.exists() for path in [*left, young]] == [False] * 3 + [True]


def test_rm(call, one, two):
    assert "would remove 1 manifests of one/a" in call("rm", "DATASET=a", "DRY=1", "MODEL=one")[1]
    code, out, _ = call("rm", "DATASET=a", "MODEL=one")
    assert code == 0
    assert out.startswith("store: removed 1 manifests of one/a\nstore: 2 chunks, ")
    assert two.manifest("a/item_1")
    code, _, err = call("rm", "DATASET=a", "MODEL=one")
    assert code == 2
    assert err == "store: DATASET=a has no manifests in KVS=kvs; there are b\n"
    assert call("gc")[0] == 0
    assert held(one) == [2, 3]


def test_a_remote(call, tmp_path, monkeypatch):
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    MemoryFileSystem.store.clear()
    try:
        store = ChunkStore("memory://kvs/one/chunks", tmp_path / "there", patience=Patience(1))
        put(store, 1, 2)
        store.refer("a/item_1", [key(1)])
        kvs = "KVS=memory://kvs"
        assert cells(call("ls", kvs)[1])[1][:4] == ["one", "a", "1", "1"]
        assert "cache" in call("stat", kvs)[1]
        assert call("verify", kvs)[0] == 0
        name = f"/kvs/one/chunks/00/{key(1)}.safetensors"
        MemoryFileSystem().pipe_file(name, MemoryFileSystem.store[name].getvalue()[:-1] + b"\xff")
        code, out, _ = call("verify", kvs)
        assert code == 2
        assert "memory://kvs/one/chunks/00/" in out
        assert call("gc", kvs, "GRACE=0")[0] == 0
        assert not store.has(key(2))
        assert store.has(key(1))
        assert call("rm", kvs, "DATASET=a")[0] == 0
        assert call("gc", kvs, "GRACE=0")[0] == 0
        assert not store.has(key(1))
        assert call("ls", "KVS=memory://none")[1] == "store: no chunks in KVS=memory://none\n"
    finally:
        MemoryFileSystem.store.clear()
