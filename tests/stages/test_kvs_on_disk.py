"""What stage 2 keeps, leaves alone, adds and rebuilds."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from eval.evaluator import Evaluator
from models.kv import store
from precompute.__main__ import PrecomputeConfig
from precompute.build import share
from stage.session import begin
from tests.pages import held, need_a_disk, settle
from tests.stages.harness import Workplace, line_of, records, refused, snapshot


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


def flip(path: Path) -> None:
    """Change one bit of a file's tensor in place, a second later by its clock."""
    content = torch.load(path, weights_only=True)
    tensor = content["kv" if "kv" in content else "scores"]
    changed = path.stat().st_mtime_ns + 10**9
    data = tensor.numpy().tobytes()
    whole = bytearray(path.read_bytes())
    whole[bytes(whole).index(data) + len(data) // 2] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(changed, changed))


def test_the_opening_line_says_why_items_are_built(ready, prepared):
    first, second, third, *_ = (ready.kvs / f"item_{item}" for item in ready.ids())
    shutil.rmtree(first)
    flip(second / store.KVS)
    shutil.copy(ready.kvs / f"item_{ready.ids()[4]}" / store.KVS, third / store.KVS)
    out = ready.ok("precompute").out
    assert "3 of 5 items to build (1 missing, 1 damaged, 1 of other tokens), " in out
    assert "precompute: 3 items, " in out
    assert "another precompute" not in out
    assert snapshot(ready.kvs) == snapshot(prepared.kvs)


@pytest.mark.parametrize("name", store.SCORES)
def test_a_damaged_score_is_rebuilt_when_it_is_asked_for(with_scores, scored, name):
    path = with_scores.kvs / f"item_{with_scores.ids()[1]}" / f"{name}.pt"
    flip(path)
    assert "all 5 items are complete" in with_scores.ok("precompute").out
    out = with_scores.ok("precompute", f"--{name}", "true").out
    assert "1 of 5 items to build (1 damaged)" in out
    assert snapshot(with_scores.kvs) == snapshot(scored.kvs)


def test_eval_refuses_a_flipped_bit_before_anything_is_run(ready):
    path = ready.kv_files()[ready.ids()[3]]
    flip(path)
    line = refused(ready, "eval", "--reuse", "random")
    assert f"{path} is damaged (its bytes are not those that were written)" in line
    assert "make precompute" in line
    ready.ok("precompute")
    ready.ok("eval", "--reuse", "random")


@pytest.mark.parametrize("stage", ["eval", "sweep"])
def test_a_bit_that_flips_while_eval_runs(ready, monkeypatch, stage):
    victim = ready.kv_files()[ready.ids()[2]]
    reference = Evaluator.reference

    def flipped(self, item):
        if item.id == ready.ids()[1]:
            flip(victim)
        return reference(self, item)

    longest = max(ready.ids(), key=lambda item: ready.kv_files()[item].stat().st_size)
    assert longest != ready.ids()[1], "the warm-up would flip it"
    monkeypatch.setattr(Evaluator, "reference", flipped)
    line = line_of(ready.run(stage, "--reuse", "random"), stage)
    assert f"{victim} is damaged" in line


def test_a_model_that_computes_no_numbers_is_refused(ready, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(ready.model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.self_attn.v_proj.weight"][0, 0] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken = Workplace(tmp_path / "place", folder, ready.rows)
    broken.ok("chunk")
    line = line_of(broken.run("precompute"), "precompute")
    assert "the model computed NaN or infinite keys/values for " in line
    assert f"item_{broken.ids()[0]}; set DTYPE=float32" in line
    assert not broken.kv_files()
    assert not list((broken.root / "kvs").rglob("*.pt"))


def test_whether_memory_was_dropped_is_what_the_system_says(ready):
    """Another program uses one item's file: its pages stay, and its record says so."""
    need_a_disk(ready.root)
    files = ready.kv_files()
    settle(*files.values())
    with held(files[ready.ids()[1]]):
        ready.ok("eval", "--reuse", "random", "no")
    told = {r["id"]: r["page_cache_dropped"] for r in records(ready.runs()["random"])}
    assert told == {item: item != ready.ids()[1] for item in ready.ids()}
    assert "did NOT drop" in (ready.runs()["random"] / "result.txt").read_text(encoding="utf-8")


def test_the_progress_bar_counts_what_is_built_here(ready):
    """Another process built two of the five items since this one looked."""
    config = PrecomputeConfig(
        model=str(ready.model),
        inputs=str(ready.root / "inputs"),
        kvs=str(ready.root / "kvs"),
    )
    (session,) = begin(config)
    items = session.inputs.items
    for item in items[2:]:
        shutil.rmtree(session.folder(item))
    own = sum(len(item.prompt) for item in items[2:])
    with tqdm(total=sum(len(item.prompt) for item in items), file=io.StringIO()) as bar:
        tally = share(session, [], items, bar)
        assert bar.n == bar.total == own == tally.tokens
    assert (tally.items, tally.elsewhere) == (3, 2)
    files = [session.folder(item) / store.KVS for item in items[2:]]
    assert tally.bytes == sum(path.stat().st_size for path in files)
