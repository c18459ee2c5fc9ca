"""Finished work of a small store, how people use it, and what must hold whatever happened."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from models.chunks import file as chunk_file
from models.chunks import folder, manifests
from models.chunks.store import ChunkStore
from models.errors import UserError
from store import gc, listing, verify
from store.config import GcConfig, StoreConfig
from tests.faults.hearing import ESCAPED, heard
from tests.faults.verdict import REFUSED, RIGHT, SILENT, TRACEBACK, Verdict

MODEL = "model"
OWNERS = {
    "a/item_1": (1, 2, 3, 1),
    "a/item_2": (2, 4),
    "b/item_1": (3, 5, 6),
}
NUMBERS = sorted({number for numbers in OWNERS.values() for number in numbers})
ACTIONS: Mapping[str, tuple[Any, Any]] = {
    "ls": (StoreConfig, listing.ls),
    "stat": (StoreConfig, listing.stat),
    "verify": (StoreConfig, verify.verify),
    "gc": (GcConfig, gc.gc),
}


def key(number: int) -> str:
    """Keys whose folders differ."""
    return f"{number:02x}" * 32


def tensors(number: int) -> dict[str, torch.Tensor]:
    """Two layers of a chunk, in mixed dtypes."""
    made = torch.Generator().manual_seed(number)
    found: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for kind in "kv":
            found[f"{layer:03}.{kind}.scale"] = torch.rand(2, 9, generator=made).half()
            found[f"{layer:03}.{kind}.codes"] = torch.randint(
                -128, 127, (2, 40 + number, 16), generator=made, dtype=torch.int8
            )
    return found


def meta(number: int) -> dict[str, Any]:
    return {"number": number, "tokens": 40 + number}


class Trouble(Exception):
    """Something that must not be."""


class Room:
    """A folder for cases: ``case`` is a fresh copy of finished work each time."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.kept = base / "kept"
        self.case = base / "case"
        build(self.store(self.kept))
        self._index(self.store(self.kept))

    def restore(self) -> None:
        """A fresh copy, of which nothing is known in this process."""
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.kept, self.case)
        chunk_file._verified.clear()

    def store(self, root: Path | None = None) -> ChunkStore:
        return ChunkStore((root or self.case) / MODEL / "chunks")

    @staticmethod
    def _index(store: ChunkStore) -> None:
        with store.index():
            pass

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.case.glob(f"{MODEL}/{pattern}"))

    def run(self, action: str, *words: str) -> tuple[int, str]:
        """A command: its code and what it said; raises Trouble for what it must not say."""
        config, main = ACTIONS[action]
        ended = heard("store", config, main, [f"KVS={self.case}", *words])
        if ended.code == ESCAPED or "Traceback" in ended.err:
            raise Trouble(f"{action}: {ended.err.strip()[-400:]}")
        lines = ended.err.splitlines()
        if len(lines) != (ended.code == 2) or not all(line.startswith("store: ") for line in lines):
            raise Trouble(f"{action}: code {ended.code} and {len(lines)} lines: {ended.err[:400]}")
        return ended.code, ended.out + ended.err


def build(store: ChunkStore) -> int:
    """What precompute does: write what is not there or not whole, then the manifests; bytes."""
    written = 0
    for owner, numbers in OWNERS.items():
        keys = [key(number) for number in numbers]
        with store.pin(keys):
            for number in numbers:
                if not store.has(key(number), verify=True):
                    written += store.put(key(number), tensors(number), meta(number))
            try:
                known = store.manifest(owner)["chunks"] == keys
            except UserError:
                known = False
            if not known:
                store.refer(owner, keys)
    return written


def read(store: ChunkStore) -> None:
    """What an evaluation does; raises Trouble where anything is not what was written."""
    for owner, numbers in OWNERS.items():
        keys = store.manifest(owner)["chunks"]
        if keys != [key(number) for number in numbers]:
            raise Trouble(f"{owner} names {keys}")
        with store.pin(keys):
            for number in numbers:
                file = store.open(key(number), verify=True)
                if file.meta != meta(number):
                    raise Trouble(f"chunk {number}: {file.meta}")
                for name, tensor in tensors(number).items():
                    if not torch.equal(file.tensor(name), tensor):
                        raise Trouble(f"chunk {number}: {name} differs")


def attempted(work: Any, *arguments: Any) -> UserError | None:
    """Do something; the refusal that it ended with, if any, which is one line."""
    try:
        work(*arguments)
    except UserError as error:
        if len(str(error).splitlines()) != 1:
            raise Trouble(f"{len(str(error).splitlines())} lines: {error}") from error
        return error
    return None


def counted(room: Room) -> tuple[int, int, dict[str, int]]:
    """By hand: files, their bytes, and bytes referred to by dataset, of whole manifests."""
    paths = [path for path in room.files("chunks/*/*.safetensors") if path.is_file()]
    held = {path.stem: path.stat().st_size for path in paths}
    referred: dict[str, int] = {}
    for path in [item / manifests.NAME for item in room.files("*/*")]:
        if not os.path.lexists(path):
            continue
        owner = path.parent.relative_to(room.case / MODEL).as_posix()
        dataset = owner.split("/")[0]
        referred.setdefault(dataset, 0)
        try:
            keys = room.store().manifest(owner)["chunks"]
        except UserError:
            continue
        referred[dataset] += sum(held.get(each, 0) for each in keys)
    return len(held), sum(held.values()), referred


def looked_at(room: Room) -> None:
    """What the commands say against what is there."""
    for action in ("ls", "stat"):
        code, said = room.run(action)
        if code:
            raise Trouble(f"{action} refuses: {said}")
    with room.store().index() as index:
        found = (*index.totals(), {use.dataset: use.referred for use in index.uses()})
    if found != counted(room):
        raise Trouble(f"the index says {found}, there is {counted(room)}")


def judged(room: Room, damaged: bool | None = None) -> Verdict:
    """Use what is there: read it, look at it, mend it, read it again, and tidy up.

    Parameters
    ----------
    damaged : whether a reader must have been refused; None where both may be.
    """
    try:
        refused = attempted(read, room.store())
        if damaged is not None and damaged != (refused is not None):
            return Verdict(SILENT, f"a reader was refused: {refused}")
        looked_at(room)
        code, _ = room.run("verify")
        unlisted = refused is not None and f"{manifests.NAME} is missing" in str(refused)
        if refused and code != 2 and not unlisted:
            return Verdict(SILENT, f"verify finds nothing, a reader: {refused}")
        if unmended := attempted(build, room.store()):
            return Verdict(REFUSED, str(unmended), told=True)
        read(room.store())
        looked_at(room)
        room.run("gc", "GRACE=0")
        read(room.store())
        if left := [str(path) for path in room.case.rglob(".*.tmp")]:
            return Verdict(SILENT, f"left behind: {left}")
    except Trouble as error:
        return Verdict(SILENT if "Traceback" not in str(error) else TRACEBACK, str(error))
    except Exception as error:  # noqa: BLE001 - what this looks for
        return Verdict(TRACEBACK, f"{type(error).__name__}: {error}")
    return Verdict(RIGHT, "" if refused is None else str(refused), refused is not None, True)


@contextlib.contextmanager
def workroom() -> Iterator[Room]:
    """A room in memory where that can be had: a disk takes its time to flush.

    What dead processes left is known for such at once, and nobody may look into it as well.
    """
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    before, folder.DEAD_AFTER = folder.DEAD_AFTER, -1.0
    try:
        with tempfile.TemporaryDirectory(dir=place) as base:
            Path(base).chmod(0o755)
            yield Room(Path(base))
    finally:
        folder.DEAD_AFTER = before
