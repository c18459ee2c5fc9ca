"""Remotes that fail: nothing wrong is read or kept, whatever they do."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from random import Random
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from models.chunks.store import ChunkStore
from models.chunks.wire import Patience
from tests.faults.chunks.damaged import DAMAGES
from tests.faults.chunks.killed import ended, forked, traced
from tests.faults.chunks.room import Room, Trouble, attempted, build, read
from tests.faults.damage import Damage, Hit
from tests.faults.verdict import REFUSED, RIGHT, SILENT, TRACEBACK, Verdict

Case = Callable[[Room, Random], Verdict]
URL = "unreliable://kvs/model/chunks"
PATIENCE = Patience(attempts=3, pause=0.0005, silence=5.0)


class Unreliable(MemoryFileSystem):
    """A remote in memory whose calls go through ``trouble``, which may raise or change bytes."""

    protocol = "unreliable"
    cachable = False
    trouble: Callable[[str, bytes | None], bytes | None] = staticmethod(lambda call, data: data)

    def info(self, path: str, **options: Any) -> Any:
        type(self).trouble("info", None)
        return super().info(path, **options)

    def ls(self, path: str, *arguments: Any, **options: Any) -> Any:
        type(self).trouble("ls", None)
        return super().ls(path, *arguments, **options)

    def put_file(self, *arguments: Any, **options: Any) -> Any:
        type(self).trouble("put", None)
        return super().put_file(*arguments, **options)

    def rm_file(self, path: str) -> Any:
        type(self).trouble("rm", None)
        return super().rm_file(path)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode != "rb":
            type(self).trouble("write", None)
            return file
        data = type(self).trouble("read", file.getvalue())
        return fsspec.implementations.memory.MemoryFile(self, path, data)


def machine(room: Room, name: str, cache: int = 10**8) -> ChunkStore:
    """A store as one machine sees it: the remote, and a cache of its own."""
    return ChunkStore(URL, room.base / "caches" / name, cache, PATIENCE)


def ready(room: Room) -> None:
    """A remote that holds everything, and machines that hold nothing."""
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    Unreliable.trouble = staticmethod(lambda call, data: data)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    room.restore()
    shutil.rmtree(room.base / "caches", ignore_errors=True)
    build(machine(room, "writer"))


def used(room: Room, told: bool | None = None) -> Verdict:
    """A machine reads all; then the remote is well again, and it reads, mends and reads again."""
    try:
        refused = attempted(read, machine(room, "reader"))
        if told is not None and told != (refused is not None):
            return Verdict(SILENT, f"a reader was refused: {refused}")
        Unreliable.trouble = staticmethod(lambda call, data: data)
        if wrong := [chunk.key for chunk in _cached(room) if not _whole(room, chunk.key)]:
            return Verdict(SILENT, f"in the cache, and not what was written: {wrong}")
        build(machine(room, "reader"))
        read(machine(room, "third"))
        with machine(room, "third").index() as index:
            if index.troubles() or any(use.absent for use in index.uses()):
                return Verdict(SILENT, f"{index.troubles()}, {index.uses()}")
    except Trouble as error:
        return Verdict(SILENT, str(error))
    except Exception as error:  # noqa: BLE001 - what this looks for
        return Verdict(TRACEBACK, f"{type(error).__name__}: {error}")
    if refused:
        return Verdict(REFUSED, str(refused), told=True)
    return Verdict(RIGHT)


def _cached(room: Room) -> list[Any]:
    cache = machine(room, "reader").cache
    assert cache is not None
    return list(cache.folder.chunks())


def _whole(room: Room, key: str) -> bool:
    cache = machine(room, "reader").cache
    assert cache is not None
    return cache.folder.holds(key, verify=True)


def failing(error: Callable[[], BaseException], share: float, passes: bool) -> Case:
    """A share of all calls ends in an error; where it ``passes``, never thrice in a row."""

    def attempt(room: Room, rng: Random) -> Verdict:
        ready(room)
        row = 0

        def trouble(call: str, data: bytes | None) -> bytes | None:
            nonlocal row
            if rng.random() < share and not (passes and row >= 2):
                row += 1
                raise error()
            row = 0
            return data

        Unreliable.trouble = staticmethod(trouble)
        return used(room, told=False if passes else None)

    return attempt


def corrupting(share: float, change: Callable[[bytes, Random], bytes]) -> Case:
    """A share of all that is read comes changed."""

    def attempt(room: Room, rng: Random) -> Verdict:
        ready(room)

        def trouble(call: str, data: bytes | None) -> bytes | None:
            return change(data, rng) if data and rng.random() < share else data

        Unreliable.trouble = staticmethod(trouble)
        return used(room, told=True if share == 1 else None)

    return attempt


def flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def half(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def damaged(damage: Damage) -> Case:
    """One object on the remote is not what was written."""

    def attempt(room: Room, rng: Random) -> Verdict:
        ready(room)
        files = Unreliable()
        chunks = sorted(name for name in MemoryFileSystem.store if name.endswith(".safetensors"))
        name = rng.choice(chunks)
        paths = []
        for each in chunks:
            path = room.base / "caches" / each.rpartition("/")[2]
            path.write_bytes(files.cat_file(each))
            paths.append(path)
        path = paths[chunks.index(name)]
        for _ in range(100):
            damage(Hit(path, rng, paths))
            if path.read_bytes() != files.cat_file(name):
                break
        files.pipe_file(name, path.read_bytes())
        return used(room)

    return attempt


def lost(room: Room, rng: Random) -> Verdict:
    """Some objects are gone."""
    ready(room)
    for name in rng.sample(sorted(MemoryFileSystem.store), rng.randint(1, 4)):
        Unreliable().rm_file(name)
    return used(room, told=True)


def fetch_killed(room: Room, rng: Random) -> Verdict:
    """Who fetches dies in the middle of it; what it left in the cache is whole or not there."""
    ready(room)
    at = rng.randrange(4000)
    code = ended(forked(lambda: traced(lambda: read(machine(room, "reader")), at)))
    if code not in (0, -signal.SIGKILL):
        return Verdict(TRACEBACK, f"it ended with {code}")
    return used(room, told=False)


def uploads_fail(room: Room, rng: Random) -> Verdict:
    """A machine cannot write for a while; what it wrote then is made up for."""
    ready(room)
    for name in sorted(MemoryFileSystem.store):
        Unreliable().rm_file(name)
    failures = rng.randint(1, 30)

    def trouble(call: str, data: bytes | None) -> bytes | None:
        nonlocal failures
        if call in ("put", "write") and failures:
            failures -= 1
            raise rng.choice([OSError(5, "Input/output error"), PermissionError(13, "no")])
        return data

    Unreliable.trouble = staticmethod(trouble)
    try:
        attempted(build, machine(room, "writer"))
    except Trouble as error:
        return Verdict(SILENT, str(error))
    found = used(room)
    if any(name.endswith(".tmp") for name in MemoryFileSystem.store):
        return Verdict(SILENT, "left behind on the remote")
    return found


CASES: dict[tuple[str, str], Case] = {
    ("remote", "drops a third of all calls"): failing(
        lambda: ConnectionResetError("reset by peer"), 0.33, passes=True
    ),
    ("remote", "drops most calls"): failing(lambda: TimeoutError(), 0.8, passes=False),
    ("remote", "is lost"): failing(lambda: OSError(113, "No route to host"), 1, passes=False),
    ("remote", "refuses"): failing(lambda: PermissionError(13, "no"), 0.2, passes=False),
    ("remote", "flips bits on the way"): corrupting(0.3, flip),
    ("remote", "always flips bits"): corrupting(1, flip),
    ("remote", "cuts answers short"): corrupting(0.3, half),
    ("remote", "lost objects"): lost,
    ("remote", "fetch killed"): fetch_killed,
    ("remote", "cannot be written for a while"): uploads_fail,
    **{
        ("remote", f"object: {name}"): damaged(change)
        for name, change in DAMAGES["chunk"].items()
        if name not in ("missing", "a folder instead", "not to be opened")
    },
}
