"""The index against the files that it is made from."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest
import torch

from models.chunks.index import LOCK, NAME, SEAL
from models.chunks.store import ChunkStore
from models.errors import UserError


def key(number: int) -> str:
    return f"{number:064x}"


def put(store: ChunkStore, *numbers: int) -> None:
    for number in numbers:
        store.put(key(number), {"000.k.rows": torch.ones(number + 1)}, {})


@pytest.fixture
def store(tmp_path):
    store = ChunkStore(tmp_path / "model" / "chunks")
    put(store, 1, 2, 3, 4)
    store.refer("a/item_1", [key(1), key(2), key(1)])
    store.refer("a/item_2", [key(2)])
    store.refer("b/item_1", [key(2), key(3), key(9)])
    return store


def size(store: ChunkStore, *numbers: int) -> int:
    return sum(store.open(key(number)).nbytes for number in numbers)


def seen(store: ChunkStore) -> tuple:
    """All that an index says."""
    with store.index() as index:
        orphans = [chunk.key for chunk in index.unreferenced()]
        keys = sorted(chunk.key for chunk in index.oldest())
        owners = [index.owners("a"), index.owners("b"), index.owners("c")]
        uses = index.uses()
        return index.totals(), index.referenced(), uses, orphans, keys, owners, index.troubles()


def counted(store: ChunkStore) -> tuple:
    """The same, by hand."""
    base = Path(store.root).parent
    held = {path.stem: path.stat().st_size for path in Path(store.root).glob("*/*.safetensors")}
    named: dict[str, list[list[str]]] = {}
    owners: dict[str, list[str]] = {}
    for path in sorted(base.glob("*/*/kvs.json")):
        owner = path.parent.relative_to(base).as_posix()
        owners.setdefault(owner.split("/")[0], []).append(owner)
        named.setdefault(owner.split("/")[0], []).append(store.manifest(owner)["chunks"])
    uses = []
    for dataset, lists in named.items():
        each = [k for keys in lists for k in keys]
        once = set(each) & held.keys()
        rest = [found for other, found in named.items() if other != dataset]
        others = {k for found in rest for keys in found for k in keys}
        uses.append(
            (
                dataset,
                len(lists),
                len(once),
                sum(held.get(k, 0) for k in each),
                sum(held[k] for k in once),
                sum(held[k] for k in once & others),
                len(set(each) - held.keys()),
            )
        )
    every = {k for lists in named.values() for keys in lists for k in keys} & held.keys()
    return (
        (len(held), sum(held.values())),
        (len(every), sum(held[k] for k in every)),
        uses,
        sorted(held.keys() - every),
        sorted(held),
        [owners.get(name, []) for name in "abc"],
        [],
    )


def test_what_it_says_is_what_is_there(store):
    found = seen(store)
    assert found == counted(store)
    (a, b) = found[2]
    assert a == ("a", 2, 2, size(store, 1, 2, 1, 2), size(store, 1, 2), size(store, 2), 0)
    assert b == ("b", 1, 2, size(store, 2, 3), size(store, 2, 3), size(store, 2), 1)
    assert found[3] == [key(4)]


def test_it_follows_whatever_happens_to_the_files(store):
    rng = random.Random(0)
    for _ in range(40):
        step = rng.randrange(5)
        number, owner = rng.randrange(1, 12), f"{rng.choice('abc')}/item_{rng.randrange(3)}"
        if step == 0:
            put(store, number)
        elif step == 1:
            (Path(store.root) / "00" / f"{key(number)}.safetensors").unlink(missing_ok=True)
        elif step == 2:
            store.release(owner)
        else:
            store.refer(owner, [key(rng.randrange(1, 12)) for _ in range(rng.randrange(6))])
        assert seen(store) == counted(store)


def test_it_lists_the_least_recently_used_first(store):
    for number, when in ((3, 10), (1, 20), (4, 30), (2, 40)):
        os.utime(store.open(key(number)).path, ns=(when, 5))
    with store.index() as index:
        found = [(chunk.key, chunk.used, chunk.made) for chunk in index.oldest()]
    assert found == [(key(n), used, 5) for n, used in ((3, 10), (1, 20), (4, 30), (2, 40))]


def test_unchanged_manifests_are_not_read_again(store, monkeypatch):
    wanted = seen(store)
    monkeypatch.setattr(type(store._at), "manifest", lambda self, owner: 1 / 0)
    assert seen(store) == wanted


@pytest.mark.parametrize("name", [NAME, SEAL])
@pytest.mark.parametrize("way", ["flip", "cut", "empty", "noise", "folder", "missing", "other"])
def test_a_damaged_one_is_built_anew(store, tmp_path, name, way):
    wanted = seen(store)
    path = Path(store.root) / name
    whole = path.read_bytes()
    for at in [0, 18, 100, *range(200, len(whole), max(1, len(whole) // 40))]:
        if way == "flip":
            at %= len(whole)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        elif way == "cut":
            path.write_bytes(whole[: at % len(whole)])
        else:
            path.unlink()
            if way == "folder":
                path.mkdir()
            elif way == "noise":
                path.write_bytes(random.Random(0).randbytes(5000))
            elif way == "empty":
                path.touch()
            elif way == "other":
                other = ChunkStore(tmp_path / "other" / "chunks")
                put(other, 7)
                seen(other)
                path.write_bytes((Path(other.root) / name).read_bytes())
        assert seen(store) == wanted
        if way == "folder":
            path.rmdir()
            assert seen(store) == wanted
        if way not in ("flip", "cut"):
            break


def test_figures_that_were_edited_are_not_believed(store):
    """SQLite itself would find nothing wrong."""
    wanted = seen(store)
    database = sqlite3.connect(Path(store.root) / NAME)
    with database:
        database.execute("DELETE FROM refs")
        database.execute("UPDATE owners SET dataset = 'c'")
    database.close()
    assert seen(store) == wanted


def test_a_folder_that_cannot_be_written_is_read_all_the_same(store, monkeypatch):
    wanted = seen(store)
    for name in (NAME, SEAL, LOCK):
        (Path(store.root) / name).unlink(missing_ok=True)

    def refused(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("models.chunks.index.FileLock.acquire", refused)
    assert seen(store) == wanted
    assert not (Path(store.root) / NAME).exists()


def test_a_disk_that_is_full(store, monkeypatch):
    wanted = seen(store)
    put(store, *range(20, 60))
    connect = sqlite3.connect

    def small(path, **options):
        database = connect(path, **options)
        if path != ":memory:":
            database.execute("PRAGMA max_page_count = 8")
        return database

    monkeypatch.setattr("models.chunks.index.sqlite3.connect", small)
    assert seen(store) == counted(store) != wanted


def test_a_manifest_that_cannot_be_read_is_told_and_tried_again(store):
    path = Path(store.root).parent / "a" / "item_1" / "kvs.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"item", b"", 1).replace(b"1", b"2", 1))
    for _ in range(2):
        with store.index() as index:
            (trouble,) = index.troubles()
            assert "a/item_1/kvs.json is damaged" in trouble
            assert index.owners("a") == ["a/item_1", "a/item_2"]
    path.write_bytes(whole)
    assert seen(store) == counted(store)


def test_a_store_that_is_not_there(tmp_path):
    assert seen(ChunkStore(tmp_path / "none" / "chunks")) == (
        (0, 0), (0, 0), [], [], [], [[], [], []], [],
    )  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_a_folder_that_may_not_be_listed(store, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "00":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="may not be read; check its permissions"):
        seen(store)
