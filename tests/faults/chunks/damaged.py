"""Files of a store that were damaged: chunks by their sections, manifests, the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from models.chunks.index import NAME, SEAL
from tests.faults import damage
from tests.faults.chunks.room import Room, judged
from tests.faults.damage import Hit
from tests.faults.verdict import Verdict

Case = Callable[[Room, Random], Verdict]
SECTIONS = ("length", "header", "payload")
PATTERNS = {
    "chunk": "chunks/*/*.safetensors",
    "manifest": "*/*/kvs.json",
    "index": f"chunks/{NAME}",
    "index's digest": f"chunks/{SEAL}",
}


def section(data: bytes, name: str) -> range:
    """Where a part of a chunk's file lies; blanks behind the header's text belong to no part."""
    start = 8 + int.from_bytes(data[:8], "little")
    text = data.rindex(b"}", 0, start) + 1
    return {"length": range(8), "header": range(8, text), "payload": range(start, len(data))}[name]


def flipped(name: str) -> damage.Damage:
    def hit(at: Hit) -> None:
        data = bytearray(at.data)
        data[at.rng.choice(section(data, name))] ^= 1 << at.rng.randrange(8)
        at.write(bytes(data))

    return hit


def cut(name: str) -> damage.Damage:
    """The file ends within the section, or just where it begins."""

    def hit(at: Hit) -> None:
        places = section(at.data, name)
        at.write(at.data[: at.rng.choice([places[0], places[-1], at.rng.choice(places)])])

    return hit


def doubled(at: Hit) -> None:
    """Two bytes of the payload in each other's place, or one doubled."""
    data = bytearray(at.data)
    place = at.rng.choice(section(data, "payload")[:-1])
    data[place + 1] = data[place] if data[place] != data[place + 1] else data[place] ^ 255
    at.write(bytes(data))


COMMON: Mapping[str, damage.Damage] = {
    "emptied": damage.empty,
    "page zeroed": damage.zero_page,
    "bytes appended": damage.append,
    "noise": damage.noise,
    "byte lost or doubled": damage.shift,
    "missing": damage.remove,
    "a folder instead": damage.folder,
    "not to be opened": damage.endless_link,
}
DAMAGES: Mapping[str, Mapping[str, damage.Damage]] = {
    "chunk": {
        **{f"bit flipped in the {name}": flipped(name) for name in SECTIONS},
        **{f"cut in the {name}": cut(name) for name in SECTIONS},
        "bytes of the payload edited": doubled,
        "of another key": damage.peer,
        **COMMON,
    },
    "manifest": {
        "bit flipped": damage.flip(),
        "truncated": damage.truncate,
        "of another item": damage.peer,
        **COMMON,
    },
    "index": {"bit flipped": damage.flip(), "truncated": damage.truncate, **COMMON},
    "index's digest": {"bit flipped": damage.flip(), "truncated": damage.truncate, **COMMON},
}


def case(target: str, name: str) -> Case:
    """One file damaged in one way."""

    def attempt(room: Room, rng: Random) -> Verdict:
        room.restore()
        paths = room.files(PATTERNS[target])
        for _ in range(100):
            path = rng.choice(paths)
            was = path.read_bytes()
            DAMAGES[target][name](Hit(path, rng, paths))
            if not _same(path, was):
                break
        else:
            raise AssertionError(f"{target}, {name}: changes nothing")
        return judged(room, damaged=_matters(target, path, was))

    return attempt


def _same(path: Path, was: bytes) -> bool:
    return path.is_file() and path.read_bytes() == was


def _matters(target: str, path: Path, was: bytes) -> bool | None:
    """Whether a reader must be refused; the blanks behind a header's text may be anything blank."""
    if target.startswith("index"):
        return False
    if target == "chunk" and path.is_file() and len(path.read_bytes()) == len(was):
        blanks = range(section(was, "header").stop, section(was, "payload").start)
        now = path.read_bytes()
        if all(now[i] == was[i] for i in range(len(was)) if i not in blanks):
            return None
    if target == "manifest" and path.is_file():
        return None if path.read_bytes().strip() == was.strip() else True
    return True


CASES: dict[tuple[str, str], Case] = {
    (target, name): case(target, name) for target, names in DAMAGES.items() for name in names
}
