"""SIGKILL at any moment loses at most the item in work, and the next run repairs what it left."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from models.kv import store
from tests.stages.forks import ForkServer
from tests.stages.harness import (
    Workplace,
    make_rows,
    points,
    records,
    snapshot,
    sweep_of,
    timeless,
    undated,
    write_rows,
)

KILLS = 10
ITEMS = 24
METHODS = ["no", "debug", "random"]
DIED = -9


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, forks: ForkServer
) -> Workplace:
    rows = write_rows(tmp_path_factory.mktemp("many"), make_rows(ITEMS, seed=1))
    workplace = Workplace(tmp_path_factory.mktemp("undisturbed"), model_folder, rows)
    for stage, options in (("chunk", ()), ("precompute", SURPRISAL), ("eval", REUSE)):
        assert run(forks, workplace, stage, *options) == 0
    return workplace


SURPRISAL = ("--surprisal", "true")
REUSE = ("--reuse", *METHODS)


def run(forks: ForkServer, workplace: Workplace, stage: str, *options: str, **how) -> int:
    return forks.start(workplace.argv(stage, *options), workplace.root / "log", **how).wait()


def killed_at(
    forks: ForkServer,
    workplace: Workplace,
    stage: str,
    options: tuple[str, ...],
    progress: Callable[[], int],
    target: int,
    jitter: float,
) -> int:
    """Start a stage and kill it ``jitter`` seconds after ``progress`` has reached ``target``."""
    child = forks.start(workplace.argv(stage, *options), workplace.root / "log")
    deadline = time.monotonic() + 60
    while progress() < target and child.running():
        assert time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.001)
    time.sleep(jitter)
    return child.kill()


def moments(seed: int, units: int) -> Iterator[tuple[int, float]]:
    """Ten rising amounts of progress, each with a delay; early enough that none comes too late."""
    rng = random.Random(seed)
    for target in sorted(rng.sample(range(units * 6 // 10), KILLS)):
        yield target, rng.random() * 0.02


def copy_of(source: Workplace, root: Path, *folders: str) -> Workplace:
    for folder in folders:
        shutil.copytree(source.root / folder, root / folder)
    return Workplace(root, source.model, source.rows)


def keep_gate(source: Workplace, place: Workplace) -> None:
    """What stands in ``gate.json`` holds for the copy, too: its runs need no gate of their own."""
    (path,) = (source.root / "outputs").glob("*/gate.json")
    kept = place.root / path.relative_to(source.root)
    kept.parent.mkdir(parents=True)
    shutil.copy(path, kept)


def assert_same_kvs(found: Workplace, wanted: Workplace, items: int = ITEMS) -> None:
    assert sorted(wanted.kv_files()) == sorted(wanted.ids())
    assert sorted(found.kv_files()) == sorted(wanted.ids()[:items])
    for item in wanted.ids()[:items]:
        path = wanted.kv_files()[item]
        ours = found.kvs / f"item_{item}"
        assert sorted(p.name for p in ours.iterdir()) == [store.KVS, "surprisal.pt"]
        for name, tensor in ((store.KVS, "kv"), ("surprisal.pt", "scores")):
            left, right = torch.load(ours / name), torch.load(path.parent / name)
            assert torch.equal(left[tensor], right[tensor])
            assert left["meta"] == right["meta"]


def assert_same_runs(found: Workplace, wanted: Workplace) -> None:
    for method in METHODS:
        folder = found.runs()[method]
        assert folder.name == wanted.runs()[method].name
        assert sorted(p.name for p in folder.iterdir()) == [
            "config.json",
            "records.jsonl",
            "result.json",
            "result.txt",
        ]
        ours, theirs = records(folder), records(wanted.runs()[method])
        assert [record["id"] for record in ours] == wanted.ids()
        assert list(map(timeless, ours)) == list(map(timeless, theirs))
        result = found.result(method)
        assert result["items"] == ours
        assert (result["n"], result["score"]) == (ITEMS, wanted.result(method)["score"])


def test_precompute_killed_ten_times_equals_an_undisturbed_run(undisturbed, forks, tmp_path):
    place = copy_of(undisturbed, tmp_path, "inputs")

    def complete() -> int:
        return len(list((tmp_path / "kvs").glob("*/*/item_*/kvs.pt")))

    for target, jitter in moments(1, ITEMS):
        assert killed_at(forks, place, "precompute", SURPRISAL, complete, target, jitter) == DIED
        for path in (tmp_path / "kvs").glob("*/*/item_*/*.pt"):
            torch.load(path, weights_only=True)  # what has its final name is whole
    assert run(forks, place, "precompute", *SURPRISAL) == 0
    assert_same_kvs(place, undisturbed)


def test_eval_killed_ten_times_equals_an_undisturbed_run(undisturbed, forks, tmp_path):
    place = copy_of(undisturbed, tmp_path, "inputs", "kvs")

    def finished() -> int:
        files = (tmp_path / "outputs").glob("*/*/*/records.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    for target, jitter in moments(2, ITEMS * len(METHODS)):
        assert killed_at(forks, place, "eval", REUSE, finished, target, jitter) == DIED
    assert run(forks, place, "eval", *REUSE) == 0
    assert_same_runs(place, undisturbed)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("n", [1, 2])
def test_chunk_killed_in_the_middle_of_a_write(undisturbed, forks, tmp_path, name, n):
    """The items come first, then the sidecar that seals them."""
    place = Workplace(tmp_path / "work", undisturbed.model, undisturbed.rows)
    place.root.mkdir()
    assert run(forks, place, "chunk", die=(name, n)) == DIED
    (left,) = place.root.rglob(".*.tmp")
    assert f"{ITEMS} of {ITEMS} items from the folder" in place.ok("chunk").out
    left.unlink()  # another stage may be writing there, so no stage removes it
    assert snapshot(place.root / "inputs") == snapshot(undisturbed.root / "inputs")


@pytest.mark.parametrize("name", ["fsync", "replace", "save"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_precompute_killed_in_the_middle_of_a_write(undisturbed, forks, tmp_path, name, n):
    place = copy_of(undisturbed, tmp_path, "inputs")
    place.ok("chunk", "--limit", "3")
    assert run(forks, place, "precompute", *SURPRISAL, "--limit", "3", die=(name, n)) == DIED
    left = list(place.kvs.rglob(".*.tmp"))
    assert len(left) == 1  # what was in work lies beside the files, under no name that is read
    for path in place.kvs.rglob("*.pt"):
        torch.load(path, weights_only=True)
    assert run(forks, place, "precompute", *SURPRISAL, "--limit", "3") == 0
    assert_same_kvs(place, undisturbed, items=3)


@pytest.mark.parametrize(("gated", "n"), [(False, 3), *((True, n) for n in range(1, 8))])
def test_eval_killed_in_the_middle_of_a_write(undisturbed, forks, tmp_path, gated, n):
    """In this order: the gate's two KV files, gate.json, three configurations, records."""
    place = copy_of(undisturbed, tmp_path, "inputs", "kvs")
    if gated:
        keep_gate(undisturbed, place)
    options = (*REUSE, "--limit", "2")
    assert run(forks, place, "eval", *options, die=("fsync", n)) == DIED
    assert run(forks, place, "eval", *options) == 0
    for method in METHODS:
        wanted = records(undisturbed.runs()[method])[:2]
        found = records(place.runs()[method])
        assert list(map(timeless, found)) == list(map(timeless, wanted))
        assert not list(place.runs()[method].glob(".*.tmp"))


SWEEP = (*REUSE, "--rate", "0.1", "0.4", "--limit", "2")


@pytest.fixture(scope="module")
def undisturbed_sweep(undisturbed, forks, tmp_path_factory) -> Workplace:
    place = copy_of(undisturbed, tmp_path_factory.mktemp("sweep"), "inputs", "kvs")
    keep_gate(undisturbed, place)
    assert run(forks, place, "sweep", *SWEEP) == 0
    return place


@pytest.mark.parametrize("n", [8, 26])
def test_a_sweep_killed_in_the_middle_of_a_write(undisturbed_sweep, forks, tmp_path, n):
    """In this order: 5 configurations, 10 records, 10 results; table, figures, picture."""
    place = copy_of(undisturbed_sweep, tmp_path, "inputs", "kvs")
    keep_gate(undisturbed_sweep, place)
    assert run(forks, place, "sweep", *SWEEP, die=("fsync", n)) == DIED
    assert run(forks, place, "sweep", *SWEEP) == 0
    assert not list(place.root.rglob(".*.tmp"))
    ours, theirs = (points(sweep_of(found)) for found in (place, undisturbed_sweep))
    assert len(ours) == 5
    for point, folder in theirs.items():
        assert list(map(timeless, records(ours[point]))) == list(map(timeless, records(folder)))
    assert undated(sweep_of(place)) == undated(sweep_of(undisturbed_sweep))
    (made,) = (path.parent for path in place.root.rglob("sweep.json"))
    assert sorted(path.name for path in made.iterdir()) == ["sweep.json", "sweep.png", "sweep.txt"]


@pytest.mark.parametrize("cut", [1, 40, None])
def test_a_torn_last_record_is_evaluated_again(undisturbed, forks, tmp_path, cut):
    place = copy_of(undisturbed, tmp_path, "inputs", "kvs", "outputs")
    path = place.runs()["debug"] / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = lines[9][: cut if cut else -1]  # at the last cut everything but the line's end is there
    path.write_bytes(b"".join(lines[:9]) + torn)
    for result in place.runs()["debug"].glob("result.*"):
        result.unlink()
    assert run(forks, place, "eval", *REUSE) == 0
    assert_same_runs(place, undisturbed)
    assert path.read_bytes().splitlines(keepends=True)[:9] == lines[:9]


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else_is(undisturbed, forks, tmp_path):
    place = copy_of(undisturbed, tmp_path, "inputs", "kvs", "outputs")
    before = snapshot(place.kvs), snapshot(place.runs()["debug"])
    for folder in (place.kvs / f"item_{place.ids()[0]}", place.runs()["debug"]):
        (folder / ".kvs.pt.4711.tmp").write_bytes(b"half")
    assert run(forks, place, "precompute", *SURPRISAL) == 0
    assert snapshot(place.kvs) == before[0]
    assert run(forks, place, "eval", *REUSE) == 0
    after = snapshot(place.runs()["debug"])
    assert after.keys() == before[1].keys()
    assert after["records.jsonl"] == before[1]["records.jsonl"]
