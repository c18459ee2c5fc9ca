"""kvs.pt and surprisal.pt: what comes back, what is refused, what is read again."""

from __future__ import annotations

import re

import pytest
import torch

from models.errors import UserError
from models.kv import store
from models.kv.capture import capture
from models.prompt import Prompt
from models.timing import Stopwatch
from tests.conftest import Family, random_prompt

PROMPT = random_prompt(3, [40, 20], 9)
REMEDY = "make precompute MODEL=tiny"


def meta_of(family: Family, prompt=PROMPT, **changes):
    known = {"model": "m", "weights": "w", "tokenizer": "t", "chunking": {"size": 40, "sink": [1]}}
    return store.describe(family.engine.modules, prompt, **(known | changes))


@pytest.fixture
def stored(llama, tmp_path):
    captured = capture(llama.engine.modules, PROMPT, [1], ["surprisal"])
    meta = meta_of(llama)
    size = store.write(tmp_path, captured, meta)
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    return tmp_path, captured, meta


def test_what_was_written_comes_back(stored):
    folder, captured, meta = stored
    assert torch.equal(store.read(folder / store.KVS, meta, REMEDY, "kv"), captured.kv)
    scores = store.read(folder / "surprisal.pt", meta, REMEDY, "surprisal")
    assert torch.equal(scores, captured.scores["surprisal"])
    assert sorted(path.name for path in folder.iterdir()) == ["kvs.pt", "surprisal.pt"]


def test_the_files_are_plain_torch_files(stored):
    folder, captured, _ = stored
    content = torch.load(folder / store.KVS, mmap=True, weights_only=True)
    assert content.keys() == {"kind", "kv", "meta", "digest"}
    assert torch.equal(content["kv"], captured.kv)
    scores = torch.load(folder / "surprisal.pt", mmap=True, weights_only=True)
    assert scores.keys() == {"kind", "scores", "chunk_ranges", "meta", "digest"}
    assert scores["chunk_ranges"] == [[3, 43], [43, 63]]
    assert scores["meta"] == content["meta"]


@pytest.mark.parametrize("kept", [0, 1, 22, 100, 0.5, -22, -1])
def test_a_file_cut_anywhere_is_damaged(stored, kept):
    folder, _, meta = stored
    path = folder / store.KVS
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else kept])
    with pytest.raises(UserError, match=rf"{path} is damaged .*{REMEDY}"):
        store.read(path, meta, REMEDY, "kv")
    assert not store.is_complete(folder, meta)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [[], torch.zeros(2), {"kv": torch.zeros(1)}, {"meta": {}}, {"kv": 1, "meta": "no dict"}],
    ids=["list", "tensor", "no meta", "no tensor", "meta is text"],
)
def test_a_torch_file_of_something_else_is_damaged(stored, content):
    folder, _, meta = stored
    torch.save(content, folder / store.KVS)
    with pytest.raises(UserError, match="is damaged"):
        store.read(folder / store.KVS, meta, REMEDY, "kv")


def test_code_in_a_file_is_never_run(stored):
    folder, _, meta = stored

    class Trap:
        def __reduce__(self):
            return (folder.joinpath("sprung").touch, ())

    torch.save({"kv": Trap(), "meta": meta}, folder / store.KVS)
    with pytest.raises(UserError, match="is damaged"):
        store.read(folder / store.KVS, meta, REMEDY, "kv")
    assert not (folder / "sprung").exists()


def test_missing(stored):
    folder, _, meta = stored
    (folder / "surprisal.pt").unlink()
    with pytest.raises(UserError, match=f"surprisal.pt is missing; build it: {REMEDY}"):
        store.read(folder / "surprisal.pt", meta, REMEDY, "surprisal")
    assert store.is_complete(folder, meta)
    assert not store.is_complete(folder, meta, ["surprisal"])


def test_a_mismatch_names_the_field_and_both_values(stored, llama):
    folder, *_ = stored
    for changes, told in (
        ({"weights": "other"}, "weights is w in the file, the run expects other"),
        ({"tokenizer": "u"}, "tokenizer is t in the file, the run expects u"),
        ({"chunking": {"size": 41, "sink": [1]}}, "chunking.size is 40 in the file"),
        ({"chunking": {"size": 40, "sink": [2]}}, "chunking.sink is [1] in the file"),
        ({"prompt": random_prompt(3, [40, 20], 9, seed=1)}, "tokens is"),
        ({"prompt": Prompt(PROMPT.ids, (0, 3), ((3, 23), (23, 63)), (63, 72))}, "spans is"),
    ):
        expected = meta_of(llama, **changes)
        with pytest.raises(UserError, match=re.escape(told)):
            store.read(folder / store.KVS, expected, REMEDY, "kv")
        assert not store.is_complete(folder, expected)


def test_another_rope_is_another_model(stored):
    folder, *_ = stored
    for name in ("llama3-rope", "yarn"):
        with pytest.raises(UserError, match="rope"):
            store.read(folder / store.KVS, meta_of(Family(name)), REMEDY, "kv")


def test_names_and_library_versions_may_differ(stored, llama):
    folder, *_ = stored
    expected = meta_of(llama, model="another name")
    expected["libraries"] = {"torch": "9"}
    store.read(folder / store.KVS, expected, REMEDY, "kv")


def test_replacing_a_file_leaves_its_readers_alone(stored, llama):
    """A file is replaced, not overwritten: who has it mapped still reads what it was."""
    folder, captured, meta = stored
    mapped = store.read(folder / store.KVS, meta, REMEDY, "kv")
    other = random_prompt(3, [40, 20], 9, seed=1)
    store.write(folder, capture(llama.engine.modules, other, [1]), meta_of(llama, other))
    assert torch.equal(mapped, captured.kv)


def test_cold_and_ready_give_the_same(stored, llama):
    folder, captured, meta = stored
    file = store.StoredItem(folder, meta, REMEDY)
    watch = Stopwatch(llama.engine.device)
    for read in (file.cold, file.ready, file.ready):
        target = torch.full_like(captured.kv, torch.nan)
        if stream := read(watch, target):
            stream.finish()
        assert torch.equal(target, captured.kv)
        target.zero_()  # the engine rotates its copy in place: the memory behind must not change
    assert watch.parts["load"] > 0
    assert watch.parts["transfer"] > 0
    assert watch.parts["rotate"] == watch.parts["recompute"] == 0


def test_the_file_on_disk_is_never_changed_by_use(stored, llama):
    folder, _, meta = stored
    before = (folder / store.KVS).read_bytes()
    mapped = store.read(folder / store.KVS, meta, REMEDY, "kv")
    mapped.zero_()
    assert (folder / store.KVS).read_bytes() == before


def test_kv_bytes_are_the_tensors(stored, llama):
    _, captured, _ = stored
    assert store.kv_bytes(llama.engine.modules, len(PROMPT)) == captured.kv.nbytes


def test_forgetting_a_file_that_is_not_there(tmp_path):
    assert store.StoredItem(tmp_path / "none", {}, REMEDY).forget() is None
