"""KV files on disk: damage is seen, memory is really dropped, NaN is never stored."""

from __future__ import annotations

import io
import os
import shutil
from chunk.build import ensure
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from eval.evaluator import Evaluator
from models.kv import store
from precompute.build import share
from precompute.layouts import layout_of
from stage.config import PrecomputeConfig
from stage.options import parse
from stage.session import begin
from tests.pages import held, need_a_disk, settle
from tests.stages.harness import Workplace, line_of, records, snapshot


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


def test_eval_builds_an_item_with_a_flipped_bit_anew(ready, prepared):
    path = ready.kv_files()[ready.ids()[3]]
    whole = path.read_bytes()
    flip(path)
    assert "1 of 5 items to build (1 damaged)" in ready.ok("eval", "--reuse", "random").out
    assert path.read_bytes() == whole


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
    assert f"item {broken.ids()[0]}: the captured KVs hold NaN or infinite values" in line
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
    config = parse(PrecomputeConfig, ready.argv("precompute")[1:])
    (session,) = begin(config, ensure)
    items = session.inputs.items
    for item in items[2:]:
        shutil.rmtree(session.folder(item))
    own = sum(len(item.prompt) for item in items[2:])
    with tqdm(total=sum(len(item.prompt) for item in items), file=io.StringIO()) as bar:
        tally = share(session, [], items, layout_of(session, []), bar)
        assert bar.n == bar.total == own == tally.built.tokens
    assert (tally.items, tally.elsewhere) == (3, 2)
    files = [session.folder(item) / store.KVS for item in items[2:]]
    assert tally.built.bytes == sum(path.stat().st_size for path in files)
