"""Several precomputes on one folder share the work and never damage each other's files."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from models.kv import store
from precompute.lock import item_lock
from tests.stages.forks import Child
from tests.stages.harness import Workplace, make_rows, write_rows
from tests.stages.test_kill import DIED, SURPRISAL, assert_same_kvs, copy_of

ITEMS = 12
PATIENCE = 60


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model_folder, forks) -> Workplace:
    """What one undisturbed process makes."""
    rows = write_rows(tmp_path_factory.mktemp("twelve"), make_rows(ITEMS, seed=2))
    place = Workplace(tmp_path_factory.mktemp("alone"), model_folder, rows)
    for stage, options in (("chunk", ()), ("precompute", SURPRISAL)):
        assert forks.start(place.argv(stage, *options), place.root / "log").wait() == 0
    return place


@pytest.fixture
def place(alone, tmp_path) -> Workplace:
    return copy_of(alone, tmp_path, "inputs")


@pytest.fixture
def start(forks, place) -> Callable[..., Child]:
    def begin(name: str, **how) -> Child:
        return forks.start(place.argv("precompute", *SURPRISAL), place.root / f"{name}.log", **how)

    return begin


def said(child: Child) -> str:
    """What a process has printed so far."""
    return child.log.read_text() if child.log.exists() else ""


def until(true: Callable[[], bool], *children: Child) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, list(map(said, children))
        time.sleep(0.001)


def leftovers(place: Workplace) -> list[Path]:
    return list((place.root / "kvs").rglob(".*.tmp"))


def built(child: Child) -> int:
    """Items that a finished process says it built."""
    found = re.search(r"precompute: (\d+) items, ", said(child))
    return int(found[1]) if found else 0


def stopped_in_the_middle(child: Child, place: Workplace) -> Path:
    """Stop a process that writes an item; returns the file that it was writing."""
    until(lambda: bool(leftovers(place)), child)
    os.kill(child.pid, signal.SIGSTOP)
    (writing,) = leftovers(place)
    assert str(child.pid) in writing.name
    return writing


def test_two_share_the_work(place, alone, start):
    children = [start(name, slow=0.1) for name in ("a", "b")]
    versions = defaultdict(set)

    def over() -> bool:
        for path in (place.root / "kvs").glob("*/*/item_*/kvs.pt"):
            versions[path].add(path.stat().st_ino)
        return not any(child.running() for child in children)

    until(over, *children)
    assert [child.wait() for child in children] == [0, 0]
    assert_same_kvs(place, alone)
    assert not leftovers(place)
    assert len(versions) == ITEMS
    assert all(len(inodes) == 1 for inodes in versions.values()), "an item was built twice"
    shares = [built(child) for child in children]
    assert sum(shares) == ITEMS
    assert min(shares) > 0
    for child, share in zip(children, shares, strict=True):
        begun = re.search(rf"(\d+) of {ITEMS} items to build", said(child))
        assert f"; {int(begun[1]) - share} came from another precompute" in said(child)


def waiting(child: Child) -> bool:
    return f"waiting for 1 of {ITEMS} items" in said(child)


def test_what_a_killed_process_left_is_built_by_the_other(place, alone, start):
    victim = start("victim", slow=0.2)
    half = stopped_in_the_middle(victim, place)
    other = start("other")
    until(lambda: waiting(other), other)
    assert half.exists(), "a live neighbour's file was removed"
    done = place.kv_files()
    assert sorted(done) == sorted(set(place.ids()) - {half.parent.name.removeprefix("item_")})
    assert victim.kill() == DIED
    assert other.wait() == 0, said(other)
    assert built(other) == ITEMS
    assert_same_kvs(place, alone)
    assert not leftovers(place)


def test_a_process_that_was_only_slow_keeps_its_item(place, alone, start):
    slow = start("slow", slow=0.2)
    half = stopped_in_the_middle(slow, place)
    other = start("other")
    until(lambda: waiting(other), other)
    os.kill(slow.pid, signal.SIGCONT)
    assert [slow.wait(), other.wait()] == [0, 0]
    assert (built(slow), built(other)) == (1, ITEMS - 1)
    assert said(other).count("waiting for") == 1
    assert_same_kvs(place, alone)
    assert not half.exists()


def test_a_process_killed_while_others_go_on(place, alone, start):
    victim = start("victim", slow=0.2)
    until(lambda: bool(leftovers(place)), victim)
    others = [start(name, slow=0.02) for name in ("b", "c")]
    time.sleep(0.1)
    assert victim.kill() == DIED
    assert [child.wait() for child in others] == [0, 0]
    assert_same_kvs(place, alone)
    assert not leftovers(place)


def test_a_lock_is_one_process_s_and_leaves_the_items_folder_alone(tmp_path):
    folder = tmp_path / "item_1"
    for _ in range(2):
        with item_lock(folder) as ours, item_lock(folder) as theirs:
            assert (ours, theirs) == (True, False)
            with item_lock(tmp_path / "item_2") as free:
                assert free
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_leftovers_stay_while_somebody_holds_the_lock(alone, tmp_path):
    place = copy_of(alone, tmp_path, "inputs", "kvs")
    folder = place.kvs / f"item_{place.ids()[0]}"
    (folder / ".kvs.pt.host.1.tmp").touch()
    with item_lock(folder):
        place.ok("precompute")
        assert len(leftovers(place)) == 1
    place.ok("precompute")
    assert not leftovers(place)
    assert sorted(path.name for path in folder.iterdir()) == [store.KVS, "surprisal.pt"]
