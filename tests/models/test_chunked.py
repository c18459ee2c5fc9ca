"""Chunks by key: the same bits as an item's own file, and keys that say all that decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import codecs, selectors
from models.chunks.store import ChunkStore
from models.kv import store
from models.kv.capture import Captured, capture
from models.kv.chunked import ChunkedItem
from models.kv.front import Fronts
from models.kv.keys import KV, key_of
from models.kv.pagecache import resident_share
from models.kv.pieces import Piece, pieces
from models.kv.reader import Unusable
from models.prompt import Headers, Prompt
from models.timing import Stopwatch
from tests.conftest import Family, build, random_prompt
from tests.pages import need_a_disk, read_in

SINK = [1]
SCORES = ["surprisal", "sinks"]
CPU = torch.device("cpu")


def described(family: Family, prompt: Prompt) -> dict:
    return store.describe(
        family.engine.modules, prompt, model="m", weights="w", tokenizer="t", chunking={}
    )


def chunked(
    family: Family, prompt: Prompt, folder: Path, captured: Captured, codec="none", fronts=()
) -> ChunkedItem:
    """The item in a store of chunks, every chunk with its scores."""
    item = ChunkedItem(
        ChunkStore(folder / "chunks"),
        "data/item_1",
        described(family, prompt),
        pieces(prompt, SINK, fronts),
        codecs.build(codec),
        "make precompute",
    )
    item.put_all(captured.kv, captured.scores)
    return item


@pytest.mark.parametrize("kind", ["sink", "prefix", "related"])
def test_every_selector_finds_the_same_bits_in_either_layout(family, tmp_path, kind):
    """Cold and ready; the question's rows too, which only ``cat`` looks at."""
    prompt = Prompt.join([1, 5, 9], [[7] * 20, [], [3, 0, 4] * 9, [8] * 3], [6, 2, 5])
    head = prompt.ids[:3]
    fronts = {"sink": (), "prefix": (head,), "related": ((*head, 8), (*head, 7), head, head)}[kind]
    engine = family.engine
    captured = capture(engine.modules, prompt, SINK, SCORES, Fronts(engine.modules).of(fronts))
    whole = store.StoredItem(tmp_path / "item", described(family, prompt), "make precompute")
    store.write(whole.folder, captured, whole.expected)
    shared = chunked(family, prompt, tmp_path, captured, fronts=fronts)
    for item in (whole, shared):
        item.check(SCORES)
    engine.cache.reserve(len(prompt) + 8)
    headers = Headers.of(prompt, SINK, fronts)
    for name in sorted(set(selectors.names()) - {"no"}):
        selector = selectors.build(name)
        if selector.oracle:
            continue  # what they look at is not in these files
        found = []
        for item in (whole, shared):
            item.forget()
            for read in (item.cold, item.ready):
                generator = torch.Generator().manual_seed(3)
                prefill = engine.fused_prefill(
                    prompt, read, selector, 0.3, generator, item.scores, headers=headers
                )
                kv = engine.cache.kv[:, :, :, : len(prompt)].clone()
                found.append((prefill.logits, prefill.recomputed, kv))
        for logits, recomputed, kv in found[1:]:
            assert torch.equal(recomputed, found[0][1])
            assert torch.equal(kv, found[0][2])
            assert torch.equal(logits, found[0][0])


def test_scores_leave_memory_with_the_kvs(llama, tmp_path):
    need_a_disk(tmp_path)
    prompt = random_prompt(3, [1000], 45)
    captured = capture(llama.engine.modules, prompt, SINK, SCORES)
    item = chunked(llama, prompt, tmp_path, captured)
    paths = [item.store.path(key) for key in item.keys([KV, *SCORES])]
    for path in paths:
        read_in(path)
    assert item.forget() is True
    assert {resident_share(path) for path in paths} == {0}


def test_keys_depend_on_all_that_decides_a_chunks_bytes():
    meta = {"weights": "w", "tokenizer": "t", "dtype": "float32", "rope": {"rope_theta": 1e4}}
    piece, none = Piece((5, 6, 7), header=(1,)), codecs.build("none")

    def key(piece=piece, kind=KV, codec="none", **changes):
        return key_of(meta | changes, piece, kind, codecs.build(codec))

    others = [
        key(weights="v"),
        key(tokenizer="s"),
        key(dtype="bfloat16"),
        key(rope={"rope_theta": 1e6}),
        key(kind="surprisal"),
        key(kind="sinks"),
        key(codec="int8"),
        key(codec="int4"),
        key(replace(piece, ids=(5, 6))),
        key(replace(piece, ids=(5, 67))),
        key(replace(piece, ids=(56, 7))),
        key(replace(piece, header=())),
        key(replace(piece, header=(), front=(1,))),
        key(replace(piece, header=(1, 5), ids=(6, 7))),
        key(replace(piece, front=(1,))),
    ]
    assert len({key(), *others}) == 1 + len(others)
    # Not on the item that it stands in; and scores are the same under every codec.
    assert key() == key_of(meta | {"tokens": "a", "spans": [], "shape": []}, piece, KV, none)
    assert key(kind="sinks", codec="int8") == key(kind="sinks")


def test_another_version_of_a_codec_is_another_key(monkeypatch):
    meta = {"weights": "w", "tokenizer": "t", "dtype": "float32", "rope": {}}
    before = key_of(meta, Piece((5,)), KV, codecs.build("int8"))
    monkeypatch.setattr(codecs.codec_class("int8"), "version", 99)
    assert key_of(meta, Piece((5,)), KV, codecs.build("int8")) != before


@pytest.mark.parametrize("codec", ["int8", "int4", "bf16"])
def test_a_codec_touches_the_documents_alone(llama, tmp_path, codec):
    prompt = random_prompt(9, [70, 33], 17)
    captured = capture(llama.engine.modules, prompt, SINK)
    item = chunked(llama, prompt, tmp_path, captured, codec)
    item.check()
    out = torch.full_like(captured.kv, torch.nan)
    item.cold(Stopwatch(CPU), out).finish()
    first, end = prompt.documents
    for rows in (slice(0, first), slice(end, None)):
        assert torch.equal(out[:, :, :, rows], captured.kv[:, :, :, rows])
    documents = slice(first, end)
    error = (out - captured.kv)[:, :, :, documents].abs()
    assert 0 < error.max() < captured.kv.abs().max() / 4
    whole = sum(item.store.open(item.key(part)).nbytes for part in item.parts)
    assert item.nbytes == whole < captured.kv.nbytes


def test_a_manifest_of_something_else_is_told(llama, tmp_path):
    prompt = random_prompt(9, [70, 33], 17)
    captured = capture(llama.engine.modules, prompt, SINK, ["sinks"])
    item = chunked(llama, prompt, tmp_path, captured)
    assert item.condition() is None
    assert item.condition(["sinks"]) is None
    assert item.condition(["surprisal"]) == "missing"
    changes = {"weights": "v", "tokens": "0" * 64, "chunking": {"chunk_size": 3}}
    for name, value in changes.items():
        other = replace(item, meta=item.meta | {name: value})
        assert other.condition() == f"of other {name}"
        with pytest.raises(Unusable, match="make precompute"):
            other.check()
    assert replace(item, codec=codecs.build("int8")).condition() == "of other codec"
    item.store.release(item.owner)
    assert item.condition() == "missing"


def test_bits_do_not_depend_on_who_came_first(tmp_path):
    """Two prompts in either order leave the same files."""
    family, found = Family("qwen2"), []
    modules = family.engine.modules
    first = random_prompt(9, [70, 33], 17)
    second = Prompt.join(
        first.ids[:9], [first.ids[slice(*first.chunks[1])], [4] * 30, first.ids[9:79]], [6, 7]
    )
    for order in ((first, second), (second, first)):
        folder = tmp_path / str(len(found))
        for prompt in order:
            chunked(family, prompt, folder, capture(modules, prompt, SINK, SCORES))
        files = {p.name: p.read_bytes() for p in folder.rglob("*.safetensors")}
        found.append(files)
    assert found[0] == found[1]
    assert len(found[0]) == 3 * 6


def test_half_precision_too(tmp_path):
    family = Family("llama")
    family.engine.modules.model.bfloat16()
    modules = type(family.engine.modules)(build("llama").bfloat16())
    family.engine.modules = modules
    prompt = random_prompt(9, [70, 33], 17)
    captured = capture(modules, prompt, SINK)
    item = chunked(family, prompt, tmp_path, captured)
    out = torch.empty_like(captured.kv)
    item.cold(Stopwatch(CPU), out).finish()
    assert torch.equal(out, captured.kv)
