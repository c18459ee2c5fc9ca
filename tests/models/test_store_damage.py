"""What no glance at a file tells: its digest does, once, and never while something is timed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from blake3 import blake3

from models.errors import UserError
from models.kv import reader, store
from models.kv.capture import Captured
from models.timing import Stopwatch
from tests.models.test_store import PROMPT, REMEDY, meta_of

KINDS = ("kv", "surprisal", "sinks")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def random_item(family, dtype=torch.float32, seed=0) -> tuple[Captured, dict]:
    """Tensors of an item's shapes, and a meta that fits them."""
    generator = torch.Generator().manual_seed(seed)
    meta = meta_of(family) | {"dtype": str(dtype).removeprefix("torch.")}
    kv = torch.randn(meta["shape"], generator=generator).to(dtype)
    scores = {name: torch.rand(len(PROMPT), generator=generator) for name in store.SCORES}
    return Captured(kv, scores), meta


@pytest.fixture
def stored(llama, tmp_path):
    captured, meta = random_item(llama)
    store.write(tmp_path, captured, meta)
    return tmp_path, captured, meta


def path_of(folder: Path, kind: str) -> Path:
    return folder / (store.KVS if kind == "kv" else f"{kind}.pt")


def payload(captured: Captured, kind: str) -> bytes:
    return (captured.kv if kind == "kv" else captured.scores[kind]).numpy().tobytes()


def overwrite(path: Path, start: int, data: bytes) -> None:
    """Change a file in place, a second later by its clock."""
    changed = path.stat().st_mtime_ns + 10**9
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)
    os.utime(path, ns=(changed, changed))


def rewrite(path: Path, **changes) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content | changes, path)


def refuse(folder: Path, meta: dict, kind: str, told: str = "") -> None:
    """All who verify refuse the file in one line, by its name, with the remedy for it."""
    scores = [] if kind == "kv" else [kind]
    assert not store.is_complete(folder, meta, scores)
    assert store.condition(folder, meta, scores) == "damaged"
    path = re.escape(str(path_of(folder, kind)))
    line = rf"^{path} is damaged \(.*{told}.*\); rebuild it: {REMEDY}$"
    with pytest.raises(UserError, match=line):
        store.StoredItem(folder, meta, REMEDY).check(scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit(stored, kind, place):
    folder, captured, meta = stored
    path, data = path_of(folder, kind), payload(captured, kind)
    assert store.is_complete(folder, meta, store.SCORES)
    offset = int(place * (len(data) - 1))
    start = path.read_bytes().index(data)
    overwrite(path, start + offset, bytes([data[offset] ^ 1]))
    refuse(folder, meta, kind, "not those that were written")


@pytest.mark.parametrize(
    "data",
    [bytes(4096), torch.full((1,), torch.nan).numpy().tobytes(), os.urandom(100)],
    ids=["zeros", "NaN", "noise"],
)
def test_overwritten_keys(stored, data):
    folder, captured, meta = stored
    path = folder / store.KVS
    overwrite(path, path.read_bytes().index(payload(captured, "kv")) + 8192, data)
    refuse(folder, meta, "kv", "not those that were written")


def test_layers_in_another_order(stored):
    folder, captured, meta = stored
    rewrite(folder / store.KVS, kv=captured.kv.flip(1))
    refuse(folder, meta, "kv", "not those that were written")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int32])
def test_another_dtype(stored, dtype):
    """Of the same shape; one of them even of the same bytes."""
    folder, captured, meta = stored
    other = captured.kv.view(dtype) if dtype == torch.int32 else captured.kv.to(dtype)
    rewrite(folder / store.KVS, kv=other)
    refuse(folder, meta, "kv", f"{dtype}, its meta says float32")


def test_rows_in_another_order_of_memory(stored):
    folder, captured, meta = stored
    rewrite(folder / store.KVS, kv=captured.kv.transpose(2, 3).contiguous().transpose(2, 3))
    refuse(folder, meta, "kv", "another order")


def test_surprisal_and_sinks_swapped(stored):
    folder, _, meta = stored
    surprisal, sinks = (path_of(folder, name) for name in store.SCORES)
    surprisal.rename(folder / "kept")
    sinks.rename(surprisal)
    (folder / "kept").rename(sinks)
    refuse(folder, meta, "surprisal", "it holds sinks")
    refuse(folder, meta, "sinks", "it holds surprisal")


def test_a_kind_that_was_rewritten_is_no_other_file(stored):
    folder, *_, meta = stored
    (folder / "surprisal.pt").rename(folder / "sinks.pt")
    rewrite(folder / "sinks.pt", kind="sinks")
    refuse(folder, meta, "sinks", "not those that were written")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("surprisal", {"chunk_ranges": [[3, 42], [42, 63]]}),
        ("surprisal", {"extra": 1}),
        ("kv", {"extra": torch.zeros(1)}),
        ("kv", {"digest": "0" * 64}),
        ("kv", {"digest": None}),
    ],
)
def test_anything_else_in_the_file(stored, kind, changes):
    folder, _, meta = stored
    rewrite(path_of(folder, kind), **changes)
    refuse(folder, meta, kind, "not those that were written")


def test_even_what_no_run_compares_is_sealed(stored):
    """Library versions may differ between file and run, but not from what was written."""
    folder, _, meta = stored
    rewrite(folder / store.KVS, meta=meta | {"libraries": {"torch": "0"}})
    refuse(folder, meta, "kv", "not those that were written")


@pytest.mark.parametrize("gone", ["digest", "kind"])
def test_a_file_without_its_seal(stored, gone):
    folder, _, meta = stored
    content = torch.load(folder / store.KVS)
    del content[gone]
    torch.save(content, folder / store.KVS)
    refuse(folder, meta, "kv")


def test_a_file_of_an_older_format_is_named_so(stored):
    folder, captured, meta = stored
    torch.save({"kv": captured.kv, "meta": meta | {"format": 1}}, folder / store.KVS)
    with pytest.raises(UserError, match="format is 1 in the file, the run expects 3; rebuild it"):
        store.StoredItem(folder, meta, REMEDY).check()
    assert store.condition(folder, meta) == "of other format"


def test_why_an_item_must_be_built(stored, llama):
    folder, _, meta = stored
    assert store.condition(folder, meta, store.SCORES) is None
    assert store.condition(folder / "none", meta) == "missing"
    assert store.condition(folder, meta | {"tokens": "other", "shape": [9]}) == "of other tokens"
    assert store.condition(folder, meta | {"chunking": {}}) == "of other chunking"
    (folder / "sinks.pt").unlink()
    assert store.condition(folder, meta, ["surprisal"]) is None
    assert store.condition(folder, meta, ["surprisal", "sinks"]) == "missing"


def test_a_setting_that_only_the_file_has_is_a_difference(stored):
    meta = stored[2]
    chunking = dict(meta["chunking"])
    del chunking["sink"]
    assert store.mismatch(meta, meta | {"chunking": chunking}).startswith("chunking.sink is [1]")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_digest_is_what_the_format_says(llama, tmp_path, dtype):
    captured, meta = random_item(llama, dtype)
    store.write(tmp_path, captured, meta)
    content = torch.load(tmp_path / store.KVS, weights_only=True)
    layout = {"kv": [str(dtype), meta["shape"]]}
    plain = {"kind": "kv", "meta": meta}
    text = json.dumps([plain, layout], sort_keys=True, separators=(",", ":"))
    raw = captured.kv.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
    assert content["digest"] == blake3(text.encode() + raw.tobytes()).hexdigest()
    assert store.is_complete(tmp_path, meta, store.SCORES)


def test_a_file_is_hashed_once_until_it_changes(stored, monkeypatch):
    folder, captured, meta = stored
    hashed = []
    digest = reader.digest

    def counted(content):
        hashed.append(content["kind"])
        return digest(content)

    monkeypatch.setattr(reader, "digest", counted)
    for _ in range(3):
        store.StoredItem(folder, meta, REMEDY).check(["surprisal"])
        assert store.is_complete(folder, meta)
    assert hashed == ["kv", "surprisal"]
    store.write(folder, Captured(captured.kv, {}), meta)  # the same bytes in a new file
    store.StoredItem(folder, meta, REMEDY).check(["surprisal"])
    assert hashed == ["kv", "surprisal", "kv"]


def test_a_damaged_file_stays_damaged(stored):
    """Only what was found right is remembered."""
    folder, captured, meta = stored
    path = folder / store.KVS
    overwrite(path, path.read_bytes().index(payload(captured, "kv")), b"\xff")
    for _ in range(2):
        refuse(folder, meta, "kv")


def test_timed_reads_never_hash(stored, llama, monkeypatch):
    def never(content):
        raise AssertionError("hashed while the clock runs")

    monkeypatch.setattr(reader, "digest", never)
    folder, captured, meta = stored
    item, target = store.StoredItem(folder, meta, REMEDY), torch.empty_like(captured.kv)
    item.forget()
    item.cold(Stopwatch(llama.engine.device), target).finish()
    item.ready(Stopwatch(llama.engine.device), target)
    assert torch.equal(target, captured.kv)
    assert torch.equal(item.scores("sinks"), captured.scores["sinks"])


# What is never written


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 12_345, -1])
def test_keys_and_values_that_are_no_numbers(llama, tmp_path, value, dtype, place):
    captured, meta = random_item(llama, dtype)
    captured.kv.view(-1)[place] = value
    folder = tmp_path / "item_7"
    told = rf"the model computed NaN or infinite keys/values for {folder}; set DTYPE"
    with pytest.raises(UserError, match=told):
        store.write(folder, captured, meta)
    assert not folder.exists()


def test_one_number_among_many_is_found(llama, tmp_path):
    """Large tensors are looked through by several threads in pieces."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    captured, meta = random_item(llama)
    kv = torch.randn(2, 4, 2, 5000, 16)
    for place in torch.randint(kv.numel(), (40,), generator=torch.Generator().manual_seed(0)):
        kept = kv.view(-1)[place].item()
        kv.view(-1)[place] = torch.nan
        with pytest.raises(UserError, match="NaN"):
            store.write(tmp_path, Captured(kv, captured.scores), meta)
        kv.view(-1)[place] = kept
    torch.set_num_threads(threads)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", store.SCORES)
def test_scores_that_are_no_numbers(llama, tmp_path, name):
    captured, meta = random_item(llama)
    captured.scores[name][5] = torch.nan
    with pytest.raises(UserError, match=rf"NaN or infinite {name} for {tmp_path}"):
        store.write(tmp_path, captured, meta)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_numbers(llama, tmp_path, dtype):
    """Their sum would be none."""
    captured, meta = random_item(llama, dtype)
    captured.kv.fill_(torch.finfo(dtype).max)
    captured.kv[1] = torch.finfo(dtype).min
    captured.kv[0, 0] = torch.finfo(dtype).max
    store.write(tmp_path, captured, meta)
    assert store.is_complete(tmp_path, meta)
