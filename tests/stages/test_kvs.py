"""What stage 2 keeps, leaves alone, adds and rebuilds, and that later stages have it do so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eval.evaluator import Evaluator
from models.kv import store
from models.load.source import resolve
from tests.stages.harness import (
    Workplace,
    line_of,
    make_model,
    records,
    snapshot,
    timeless,
)

READERS = {
    "precompute": (),
    "eval": ("REUSE=random",),
    "sweep": ("REUSE=random", "RATE=.2"),
}
SCORED = [("surprisal_chunk", "surprisal"), ("attnlink", "sinks")]


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


# Not whole, or of something else


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """One bit of the tensor."""
    found, content = torch.load(path), bytearray(path.read_bytes())
    tensor = found["kv" if "kv" in found else "scores"]
    content[content.index(tensor.numpy().tobytes()) + tensor.nbytes // 2] ^= 1
    path.write_bytes(content)


def another_file(path: Path) -> None:
    path.write_text("These are no KVs.\n")


def a_dict_without_meta(path: Path) -> None:
    torch.save({"kv": torch.zeros(1), "scores": torch.zeros(1)}, path)


def a_bare_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def short(path: Path) -> None:
    content = torch.load(path)
    name = "kv" if "kv" in content else "scores"
    torch.save(content | {name: content[name][..., :-1].clone()}, path)


DAMAGES = [truncated, emptied, flipped, another_file, a_dict_without_meta, a_bare_tensor, short]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("stage", READERS)
def test_damaged_kvs_are_built_anew_by_whoever_reads_them(ready, prepared, stage, damage):
    damage(ready.kv_files()[ready.ids()[3]])
    out = ready.ok(stage, *READERS[stage]).out
    assert "1 of 5 items to build (1 damaged)" in out
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)


@pytest.mark.parametrize("damage", [truncated, flipped, a_dict_without_meta, short, Path.unlink])
@pytest.mark.parametrize(("method", "kept"), SCORED)
def test_scores_are_built_anew_by_the_method_that_reads_them(
    with_scores, scored, damage, method, kept
):
    damage(with_scores.kvs / "item_row-2" / f"{kept}.pt")
    assert "items to build" not in with_scores.ok("eval", "REUSE=random").out
    out = with_scores.ok("sweep", f"REUSE={method}", "RATE=.2").out
    assert f"1 of 5 items to build (1 {'missing' if damage is Path.unlink else 'damaged'})" in out
    assert snapshot(with_scores.kvs) == snapshot(scored.kvs)


@pytest.mark.parametrize("stage", ["eval", "sweep"])
@pytest.mark.parametrize(("method", "kept"), SCORED)
def test_scores_that_were_not_kept_are_added(ready, scored, stage, method, kept):
    out = ready.ok(stage, "LIMIT=2", "RATE=.2", f"REUSE=random {method}").out
    assert "2 of 2 items to build (2 missing)" in out
    for item in ready.ids()[:2]:
        for name in (store.KVS, f"{kept}.pt"):
            ours, theirs = (place.kvs / f"item_{item}" / name for place in (ready, scored))
            assert ours.read_bytes() == theirs.read_bytes()
    assert "items to build" not in ready.ok(stage, "LIMIT=2", "RATE=.2", f"REUSE={method}").out


def test_results_on_what_was_built_anew_are_those_of_undamaged_files(with_scores, tmp_path):
    """Files missing, cut, flipped, and of another item: as if nothing had been."""
    reuse = ("REUSE=full random blend surprisal_chunk attnlink", "RATE=.3")
    other = Workplace(tmp_path / "other", with_scores.model, with_scores.rows)
    shutil.copytree(with_scores.root, other.root)
    with_scores.ok("eval", *reuse)
    ids, kvs = other.ids(), other.kvs
    (kvs / f"item_{ids[0]}" / store.KVS).unlink()
    flipped(kvs / f"item_{ids[1]}" / store.KVS)
    truncated(kvs / f"item_{ids[1]}" / "sinks.pt")
    shutil.copy(kvs / f"item_{ids[3]}" / store.KVS, kvs / f"item_{ids[2]}")
    shutil.copy(kvs / f"item_{ids[4]}" / "surprisal.pt", kvs / f"item_{ids[3]}")
    shutil.rmtree(kvs / f"item_{ids[4]}")
    out = other.ok("eval", *reuse).out
    assert "5 of 5 items to build (2 missing, 1 damaged, 2 of other tokens)" in out
    assert snapshot(other.kvs) == snapshot(with_scores.kvs)
    assert other.runs().keys() == with_scores.runs().keys()
    for method, folder in other.runs().items():
        theirs = records(with_scores.runs()[method])
        assert list(map(timeless, records(folder))) == list(map(timeless, theirs))


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """The file with ``change`` applied to its meta."""
    content = torch.load(path)
    change(content["meta"])
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda meta: meta.update(weights="0" * 16), "weights"),
        (lambda meta: meta.update(format=0), "format"),
        (lambda meta: meta["rope"].update(rope_theta=5e5), "rope"),
        (lambda meta: meta.update(tokens="0" * 64), "tokens"),
        (lambda meta: meta["spans"].pop(), "spans"),
        (lambda meta: meta.pop("dtype"), "dtype"),
        (lambda meta: meta["chunking"].update(sink=[5]), "chunking"),
    ],
)
def test_kvs_of_something_else_are_named_and_built_anew(ready, prepared, change, field):
    edited(ready.kv_files()[ready.ids()[2]], change)
    assert f"1 of 5 items to build (1 of other {field})" in ready.ok("precompute").out
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)


def test_kvs_of_another_model_under_this_one_s_name(ready, tmp_path):
    other = make_model(tmp_path / "other" / "tiny", seed=8)
    os.rename(ready.kvs.parent, ready.root / "kvs" / resolve(str(other)).name)
    out = ready.ok("eval", "REUSE=full", f"MODEL={other}").out
    assert "5 of 5 items to build (5 of other weights)" in out


def test_a_folder_in_the_place_of_kvs_is_left_alone(ready):
    path = ready.kv_files()[ready.ids()[3]]
    path.unlink()
    path.mkdir()
    for stage in READERS:
        line = line_of(ready.run(stage), stage)
        assert "cannot write" in line
        assert str(path) in line
    assert path.is_dir()


def test_what_was_built_for_the_run_is_not_built_for_items_beyond_it(ready):
    shutil.rmtree(ready.kvs)
    assert "2 of 2 items to build" in ready.ok("eval", "LIMIT=2", "REUSE=full").out
    assert sorted(ready.kv_files()) == ready.ids()[:2]


@pytest.mark.parametrize("damage", [truncated, Path.unlink])
def test_kvs_that_vanish_while_eval_runs(ready, prepared, monkeypatch, damage):
    victim = ready.kv_files()[ready.ids()[2]]
    original = Evaluator.begin

    def begin(self, item, method, reference):
        if item.id == ready.ids()[1]:
            damage(victim)
        return original(self, item, method, reference)

    monkeypatch.setattr(Evaluator, "begin", begin)
    line = line_of(ready.run("eval", "--reuse", "random"), "eval")
    assert f"item {ready.ids()[2]}, method random: {victim} is " in line
    assert "make precompute" in line
    finished = (ready.runs()["random"] / "records.jsonl").read_bytes()
    assert [r["id"] for r in records(ready.runs()["random"])] == ready.ids()[:2]
    assert not list(ready.runs()["random"].glob("result.*"))
    monkeypatch.undo()
    ready.ok("eval", "--reuse", "random")
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)
    assert (ready.runs()["random"] / "records.jsonl").read_bytes().startswith(finished)
    assert [r["id"] for r in records(ready.runs()["random"])] == ready.ids()
