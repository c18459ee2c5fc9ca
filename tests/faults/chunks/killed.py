"""Processes that are killed at any line of the store's code, and several at once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from models.chunks import folder
from models.chunks.pins import remove_unused
from models.errors import UserError
from tests.faults.chunks.room import (
    NUMBERS,
    OWNERS,
    Room,
    Trouble,
    attempted,
    build,
    judged,
    key,
    looked_at,
    meta,
    read,
    tensors,
)
from tests.faults.damage import Hit, noise
from tests.faults.verdict import REFUSED, RIGHT, SILENT, TRACEBACK, Verdict

Case = Callable[[Room, Random], Verdict]
ROOT = Path(__file__).resolve().parents[3]
OURS = (str(ROOT / "models" / "chunks"), str(ROOT / "models" / "atomic.py"), str(ROOT / "store"))
FAILED, REFUSES = 98, 97
NOBODY = 65534


def forked(work: Callable[[], Any]) -> int:
    """Start ``work`` in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        work()
        code = 0
    except UserError as error:
        code = REFUSES if len(str(error).splitlines()) == 1 else FAILED
    except BaseException:  # noqa: BLE001 - the parent learns it by the code
        code = FAILED
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """A process's exit code, or its signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def traced(work: Callable[[], Any], at: int | None) -> dict[str, list[int]]:
    """Do ``work``; SIGKILL before the ``at``-th line of the store's code that is run.

    Returns
    -------
    For each line of the source when it was run, counted in lines.
    """
    count = 0
    when: dict[str, list[int]] = {}

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            when.setdefault(f"{frame.f_code.co_filename}:{frame.f_lineno}", []).append(count)
            count += 1
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(OURS) else None

    threading.settrace(call)
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return when


def first(room: Room) -> Callable[[], Any]:
    """Everything is written for the first time."""
    shutil.rmtree(room.case)
    return lambda: build(room.store())


def mending(room: Room) -> Callable[[], Any]:
    """Damaged chunks are written anew."""
    for path in room.files("chunks/*/*.safetensors"):
        noise(Hit(path, Random(1)))
    return lambda: build(room.store())


def indexing(room: Room) -> Callable[[], Any]:
    """An index is made where there is none."""
    for path in room.files("chunks/*index*"):
        path.unlink()
    return lambda: looked_at(room)


def following(room: Room) -> Callable[[], Any]:
    """An index takes over what changed."""
    store = room.store()
    store.put(key(9), tensors(9), meta(9))
    store.refer("c/item_1", [key(9), key(1)])
    store.release("a/item_2")
    store.refer("a/item_2", [key(number) for number in OWNERS["a/item_2"]])
    return lambda: looked_at(room)


def collecting(room: Room) -> Callable[[], Any]:
    """Everything is collected, down to one chunk's bytes."""
    return lambda: room.run("gc", "GRACE=0", "BYTES=9000")


def removing(room: Room) -> Callable[[], Any]:
    """A dataset's references go, and what they held with them."""
    store = room.store()

    def work() -> None:
        for owner in OWNERS:
            if owner.startswith("a/"):
                store.release(owner)
        room.run("gc", "GRACE=0")

    return work


WORKS = {
    "writing": first,
    "writing anew": mending,
    "making an index": indexing,
    "updating an index": following,
    "gc": collecting,
    "rm and gc": removing,
}


def killing(name: str) -> Case:
    """A process dies in the middle of its work; another goes on."""
    known: list[list[int]] = []

    def attempt(room: Room, rng: Random) -> Verdict:
        if not known:
            known.append(lines(room, name))
        return killed_at(room, name, rng.choice(known[0]))

    return attempt


def killed_at(room: Room, name: str, at: int) -> Verdict:
    """The work is killed before its ``at``-th line, and what that leaves is used."""
    room.restore()
    work = WORKS[name](room)
    code = ended(forked(lambda: traced(work, at)))
    if code not in (-signal.SIGKILL, 0):
        return Verdict(TRACEBACK, f"before line {at} it ended with {code}")
    return judged(room)


def lines(room: Room, name: str) -> list[int]:
    """When the work runs each line of the store's code, once for each line of the source.

    Which of the times that a line is run is drawn, from the same seed always.
    """
    room.restore()
    work = WORKS[name](room)
    path = room.base / "lines.json"
    if ended(forked(lambda: path.write_text(json.dumps(traced(work, None))))):
        raise AssertionError(f"{name}: the work itself fails")
    when: dict[str, list[int]] = json.loads(path.read_text())
    rng = Random(0)
    return [rng.choice(times) for times in when.values()]


def full(name: str) -> Case:
    """No file may grow past a limit, as on a disk that is full."""

    def attempt(room: Room, rng: Random) -> Verdict:
        room.restore()
        work = WORKS[name](room)
        limit = rng.choice([1, 50, 400, 1000, 3000, 5000, rng.randrange(9000)])

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            work()

        code = ended(forked(limited))
        if code not in (0, REFUSES):
            return Verdict(TRACEBACK, f"with {limit} bytes a file it ended with {code}")
        found = judged(room)
        if found.outcome == RIGHT and code == REFUSES:
            return Verdict(REFUSED, f"{limit} bytes a file", told=True)
        return found

    return attempt


def read_only(name: str) -> Case:
    """A store that may be read and not written; for root nothing is so, and the child is nobody."""

    def attempt(room: Room, rng: Random) -> Verdict:
        room.restore()
        path = rng.choice(room.files("chunks/*/*.safetensors"))
        if name == "write":
            path.unlink()
        if name == "look without an index":
            for index in room.files("chunks/*index*"):
                index.unlink()
        with _locked(room.case):
            codes = ended(forked(lambda: _as_nobody(room, name)))
        right = {"read": 0, "write": REFUSES, "look": 0, "look without an index": 0, "gc": 0}[name]
        if codes != right:
            return Verdict(SILENT, f"it ended with {codes}, not with {right}")
        after = judged(room)
        refused = name in ("write", "gc")
        return Verdict(REFUSED, "", told=True) if refused and after.outcome == RIGHT else after

    return attempt


def _as_nobody(room: Room, name: str) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if name == "read":
        read(room.store())
    elif name == "write":
        build(room.store())
    elif name == "gc":
        code, said = room.run("gc", "GRACE=0", "BYTES=9000")
        if code != 2 or "cannot write" not in said:
            raise Trouble(said)
    else:
        read(room.store())
        looked_at(room)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    everything = [root, *root.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in everything:
            if path.exists():
                path.chmod(0o755 if path.is_dir() else 0o644)


def two_writers(room: Room, rng: Random) -> Verdict:
    """Two processes write the same chunks; now and then one of them dies."""
    room.restore()
    shutil.rmtree(room.case)
    at = rng.choice([None, rng.randrange(2000)])
    first_of_them = forked(lambda: traced(lambda: build(room.store()), at))
    pids = [first_of_them, forked(lambda: build(room.store()))]
    codes = [ended(pid) for pid in pids]
    if codes[0] not in (0, -signal.SIGKILL) or codes[1]:
        return Verdict(TRACEBACK, f"they ended with {codes}")
    try:
        read(room.store())
    except (Trouble, UserError) as error:
        return Verdict(SILENT, str(error))
    return judged(room, damaged=False)


def two_menders(room: Room, rng: Random) -> Verdict:
    """Two processes find the same chunk damaged and write it anew."""
    room.restore()
    noise(Hit(rng.choice(room.files("chunks/*/*.safetensors")), rng))
    codes = [ended(pid) for pid in [forked(lambda: build(room.store())) for _ in range(2)]]
    if codes != [0, 0]:
        return Verdict(TRACEBACK, f"they ended with {codes}")
    return judged(room, damaged=False)


def collected_while_read(room: Room, rng: Random) -> Verdict:
    """Somebody collects all there is while an item is read: what is read stays."""
    room.restore()
    owner = rng.choice(sorted(OWNERS))
    keys = [key(number) for number in OWNERS[owner]]
    store = room.store()
    with store.pin(keys):
        code = ended(forked(lambda: room.run("gc", "GRACE=0", "BYTES=1")))
        if code:
            return Verdict(TRACEBACK, f"gc ended with {code}")
        for number in OWNERS[owner]:
            if refused := attempted(store.open, key(number), True):
                return Verdict(SILENT, f"taken from a reader: {refused}")
        others = [number for number in NUMBERS if store.has(key(number))]
        if set(others) - set(OWNERS[owner]):
            return Verdict(SILENT, f"{others} are still there")
    return judged(room)


def collected_while_written(room: Room, rng: Random) -> Verdict:
    """Somebody collects again and again while another builds: no manifest names what is gone."""
    room.restore()
    shutil.rmtree(room.case)
    room.store().put(key(9), tensors(9), meta(9))

    def collect() -> None:
        folder.DEAD_AFTER = 60.0  # a file that was just opened is not a dead process's
        for _ in range(rng.randint(2, 6)):
            room.run("gc", "GRACE=0.01")

    codes = [ended(pid) for pid in [forked(collect), forked(lambda: build(room.store()))]]
    if codes != [0, 0]:
        return Verdict(TRACEBACK, f"they ended with {codes}")
    return judged(room, damaged=False)


def reader_died(room: Room, rng: Random) -> Verdict:
    """Who pins a chunk and is killed pins nothing any more."""
    room.restore()
    number = rng.choice(NUMBERS)

    def dies() -> None:
        with room.store().pin([key(number)]):
            os.kill(os.getpid(), signal.SIGKILL)

    ended(forked(dies))
    path = room.files(f"chunks/*/{key(number)}.safetensors")[0]
    if not remove_unused(path):
        return Verdict(SILENT, "a dead process pins it")
    return judged(room, damaged=True)


CASES: dict[tuple[str, str], Case] = {
    **{("killed", f"while {name}"): killing(name) for name in WORKS},
    **{("disk full", f"while {name}"): full(name) for name in WORKS},
    **{
        ("read-only folder", name): read_only(name)
        for name in ("read", "write", "look", "look without an index", "gc")
    },
    ("several processes", "two writers of one chunk"): two_writers,
    ("several processes", "two menders of one chunk"): two_menders,
    ("several processes", "gc beside a reader"): collected_while_read,
    ("several processes", "gc beside a writer"): collected_while_written,
    ("several processes", "a reader that died"): reader_died,
}
