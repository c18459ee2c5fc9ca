"""Who refers to which chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.chunks.store import ChunkStore
from models.chunks.troubles import Damaged, Missing

KEYS = ["ab" * 32, "cd" * 32, "ab" * 32]


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "model" / "chunks")


def test_a_manifest_keeps_order_and_repetitions(store):
    store.refer("2wikimqa/item_3", KEYS, {"codec": "none"})
    assert (Path(store.root).parent / "2wikimqa" / "item_3" / "kvs.json").is_file()
    found = store.manifest("2wikimqa/item_3")
    assert found == {
        "kind": "manifest", "owner": "2wikimqa/item_3", "chunks": KEYS, "codec": "none",
    }  # fmt: skip
    store.release("2wikimqa/item_3")
    store.release("2wikimqa/item_3")
    with pytest.raises(Missing):
        store.manifest("2wikimqa/item_3")


def test_an_edited_one_is_refused(store):
    store.refer("2wikimqa/item_3", KEYS)
    path = Path(store.root).parent / "2wikimqa" / "item_3" / "kvs.json"
    store.refer("2wikimqa/item_4", KEYS)
    other = path.read_text().replace("item_3", "item_4")
    another = (path.parent.parent / "item_4" / "kvs.json").read_text()
    edited = path.read_text().replace("cdcd", "cdce")
    for text in (edited, other, another, "{}", "[", "", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(Damaged, match=r"kvs\.json is damaged"):
            store.manifest("2wikimqa/item_3")


@pytest.mark.parametrize("owner", ["item_3", "a/../item_3", "/a/item_3", "a/b/c", "../item_3", ""])
def test_owners_are_items_of_a_dataset(store, owner):
    with pytest.raises(ValueError, match="dataset-folder"):
        store.refer(owner, KEYS)


def test_names_that_are_taken(store):
    with pytest.raises(ValueError, match="manifest's own"):
        store.refer("2wikimqa/item_3", KEYS, {"chunks": []})
