"""Chunks captured behind something else: other files, other runs, never mixed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from models.kv.front import Front
from tests.stages.harness import line_of, records, refused, snapshot, timeless

CONTEXTS = ("sink", "prefix", "primed:40", "related:40")
BUILT = "items to build"


def files(place) -> dict[str, dict[str, str]]:
    """What lies in each folder of KVs, by the folder's name."""
    folders = (place.root / "kvs").glob("*/*")
    return {folder.name: snapshot(folder) for folder in folders}


def run(place, method: str, context: str) -> Path:
    """The folder of a method's run: its name tells a context that is not the method's own."""
    behind = "" if context == "sink" else f"+{context.replace(':', '+')}"
    return place.runs()[method + behind]


def test_going_back_and_forth_builds_nothing_and_mixes_nothing(place):
    sets, seen = [], {}
    for context in CONTEXTS:
        assert f"5 of 5 {BUILT} (5 missing)" in place.ok("precompute", f"CONTEXT={context}").out
        now = files(place)
        sets += [now[name] for name in now.keys() - seen.keys()]
        assert seen.items() <= now.items()
        seen = now
    for context in ("prefix", "primed:40:corpus", "sink", "primed:40"):
        assert "all 5 items are complete" in place.ok("precompute", f"CONTEXT={context}").out
    assert files(place) == seen
    assert len(seen) == len(sets) == len(CONTEXTS)
    for path in sets[0]:
        assert path.endswith("kvs.pt") == (len({found[path] for found in sets}) == len(sets))


def test_files_of_another_context_are_built_anew(place):
    """They lie where those of this context are looked for."""
    place.ok("precompute", "CONTEXT=prefix")
    right = snapshot(place.kvs)
    theirs = place.kvs
    place.ok("precompute", "CONTEXT=primed:40")
    mine = place.kvs
    assert mine != theirs
    shutil.copytree(mine, theirs, dirs_exist_ok=True)
    out = place.ok("precompute", "CONTEXT=prefix").out
    assert f"5 of 5 {BUILT} (5 of other chunking)" in out
    assert snapshot(theirs) == right


def test_runs_of_every_context_stand_apart_and_resume(ready):
    outs, found = {}, {}
    for context in CONTEXTS:
        options = ("REUSE=full epic attnlink", "RATE=.3", f"CONTEXT={context}")
        ready.ok("sweep", *options, "LIMIT=2")
        outs[context] = ready.ok("sweep", *options).out
        again = ready.ok("sweep", *options).out
        assert "all 5 items are finished" in again
        assert BUILT not in again
        found[context] = [timeless(record) for record in records(run(ready, "full", context))]
    for context, out in outs.items():
        named = re.findall(r"^(?:full|epic|attnlink)\b.*?\s{2,}(sink|prefix|\w+:40)\s", out, re.M)
        assert set(named) == {context}
    distances = [[record["kl_mean"] for record in found[context]] for context in CONTEXTS]
    assert len({tuple(each) for each in distances}) == len(CONTEXTS)
    report = ready.ok("report").out
    assert set(re.findall(r"  (sink|prefix|\w+:40)  ", report)) == set(CONTEXTS)


def test_a_run_that_was_cut_short_ends_with_the_same_figures(ready):
    options = ("REUSE=full", "CONTEXT=primed:40")
    ready.ok("eval", *options)
    folder = run(ready, "full", "primed:40")
    whole = list(map(timeless, records(folder)))
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:2]))
    (folder / "result.json").unlink()
    (ready.kvs / "item_row-4" / "kvs.pt").unlink()
    out = ready.ok("eval", *options).out
    assert f"1 of 5 {BUILT} (1 missing)" in out
    assert "resuming, 2 of 5" in out
    assert list(map(timeless, records(folder))) == whole


@pytest.mark.parametrize("context", CONTEXTS)
def test_everything_recomputed_is_the_full_prefill(ready, context):
    ready.ok("sweep", "REUSE=random debug", "RATE=1", f"CONTEXT={context}")
    for method in ("random", "debug"):
        assert all(record["kl_mean"] < 1e-5 for record in records(run(ready, method, context)))


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_context_has_its_gate(ready, context):
    out = ready.ok("eval", "REUSE=no", f"CONTEXT={context}").out
    assert ("running the gate" in out) == (context != "sink")
    assert "running the gate" not in ready.ok("eval", "REUSE=no", f"CONTEXT={context}").out
    assert "FAIL" not in ready.ok("gate", f"CONTEXT={context}").out


def test_a_primer_is_run_once_for_all_that_share_it(place, monkeypatch):
    """All items but the one that it was taken from, and that one has another."""
    made, real = [], Front.__init__

    def counting(self, modules, ids):
        made.append(tuple(ids))
        real(self, modules, ids)

    monkeypatch.setattr(Front, "__init__", counting)
    place.ok("precompute", "CONTEXT=primed:40")
    assert len(made) == len(set(made)) == 3  # the prefix alone is in front of first chunks
    front = {path.parent.name: torch.load(path)["meta"] for path in place.kv_files().values()}
    fronts = [front[f"item_row-{i}"]["chunking"]["front"] for i in range(5)]
    assert fronts[1:] == [fronts[1]] * 4
    assert fronts[0] != fronts[1]


def test_a_longer_list_keeps_the_items_of_a_shorter_one(place):
    place.ok("precompute", "LIMIT=3", "CONTEXT=primed:40")
    assert f"2 of 5 {BUILT}" in place.ok("precompute", "CONTEXT=primed:40").out


def test_a_text_of_ones_own(place, tmp_path):
    text: Path = tmp_path / "own.txt"
    text.write_text("The river and the old bridge at Port Anselm. " * 30)
    context = f"CONTEXT=primed:30:{text}"
    assert f"5 of 5 {BUILT}" in place.ok("precompute", context).out
    assert "all 5 items are complete" in place.ok("precompute", context).out
    text.write_text("A tower in the north, the new market town. " * 30)
    assert f"5 of 5 {BUILT} (5 of other chunking)" in place.ok("precompute", context).out


@pytest.mark.parametrize("stage", ["precompute", "eval", "sweep", "gate"])
@pytest.mark.parametrize(
    ("context", "says"),
    [
        ("prefx", "CONTEXT=prefx is unknown: did you mean prefix?"),
        ("primed:abc", "CONTEXT=primed:abc: say how many tokens, 1 or more"),
        ("primed:-4", "say how many tokens"),
        ("primed:9:essai", "did you mean essay?"),
        ("primed:9000000", "CONTEXT=primed:9000000: essay has"),
    ],
)
def test_what_cannot_stand_in_front(ready, stage, context, says):
    assert says in refused(ready, stage, f"CONTEXT={context}")


def test_more_than_the_models_positions_hold(ready):
    line = line_of(ready.run("precompute", "CONTEXT=primed:1000:essay"), "precompute")
    assert "tokens in front of" in line
    assert "the model holds 1024" in line


def test_stage_1_has_no_context(ready):
    assert "unknown variable CONTEXT" in refused(ready, "chunk", "CONTEXT=prefix")
