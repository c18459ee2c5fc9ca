"""A cold read is cold: what is forgotten has left memory, and comes back from the disk."""

from __future__ import annotations

import pytest
import torch

from models.kv import store
from models.kv.capture import Captured
from models.kv.pagecache import resident_share
from models.timing import Stopwatch
from tests.conftest import random_prompt
from tests.models.test_store import REMEDY, meta_of
from tests.pages import held, need_a_disk, read_in

PROMPT = random_prompt(3, [1000, 1000], 45)
FILES = (store.KVS, "surprisal.pt", "sinks.pt")
CPU = torch.device("cpu")


def write(folder, llama, seed=0):
    generator = torch.Generator().manual_seed(seed)
    meta = meta_of(llama, PROMPT)
    scores = {name: torch.rand(len(PROMPT), generator=generator) for name in store.SCORES}
    captured = Captured(torch.randn(meta["shape"], generator=generator), scores)
    store.write(folder, captured, meta)
    return captured, meta


@pytest.fixture
def stored(llama, tmp_path):
    need_a_disk(tmp_path)
    captured, meta = write(tmp_path, llama)
    return store.StoredItem(tmp_path, meta, REMEDY), captured


def test_what_is_forgotten_has_left_memory(stored):
    item, _ = stored
    for name in FILES:
        read_in(item.folder / name)
    assert item.forget() is True
    assert [resident_share(item.folder / name) for name in FILES] == [0, 0, 0]


def test_a_cold_read_finds_nothing_in_memory_and_brings_it_in(stored):
    item, captured = stored
    target = torch.empty_like(captured.kv)
    for _ in range(2):  # the second time the item's own mapping must be let go of first
        item.check(store.SCORES)
        assert item.forget() is True
        assert resident_share(item.folder / store.KVS) == 0
        item.cold(Stopwatch(CPU), target.zero_()).finish()
        assert torch.equal(target, captured.kv)
        assert resident_share(item.folder / store.KVS) > 0.99
        item.ready(Stopwatch(CPU), target.zero_())
        assert torch.equal(target, captured.kv)


def test_scores_are_forgotten_with_the_kvs(stored, llama):
    item, captured = stored
    assert torch.equal(item.scores("sinks"), captured.scores["sinks"])
    other, _ = write(item.folder, llama, seed=1)
    assert torch.equal(item.scores("sinks"), captured.scores["sinks"])
    item.forget()
    assert torch.equal(item.scores("sinks"), other.scores["sinks"])


def test_each_cold_read_maps_the_file_anew(llama, tmp_path):
    captured, meta = write(tmp_path, llama)
    item, target = store.StoredItem(tmp_path, meta, REMEDY), torch.empty_like(captured.kv)
    item.cold(Stopwatch(CPU), target).finish()
    other, _ = write(tmp_path, llama, seed=1)
    item.ready(Stopwatch(CPU), target)
    assert torch.equal(target, captured.kv)  # from memory: the file has changed since
    item.cold(Stopwatch(CPU), target).finish()
    assert torch.equal(target, other.kv)
    item.ready(Stopwatch(CPU), target)
    assert torch.equal(target, other.kv)


def test_nothing_is_ready_after_forgetting(llama, tmp_path):
    captured, meta = write(tmp_path, llama)
    item, target = store.StoredItem(tmp_path, meta, REMEDY), torch.empty_like(captured.kv)
    item.cold(Stopwatch(CPU), target).finish()
    item.forget()
    with pytest.raises(AssertionError, match="nothing is in memory"):
        item.ready(Stopwatch(CPU), target)


def test_pages_that_stay_are_told(stored):
    item, _ = stored
    with held(item.folder / store.KVS):
        assert item.forget() is False
        assert resident_share(item.folder / store.KVS) == 1
    assert item.forget() is True


def test_nothing_of_an_empty_file_is_in_memory(tmp_path):
    (tmp_path / store.KVS).touch()
    assert resident_share(tmp_path / store.KVS) in (0.0, None)
    assert store.StoredItem(tmp_path, {}, REMEDY).forget() is not False
