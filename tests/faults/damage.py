"""Damage to any file: what disks, copies, crashes and editors do to bytes, lines and JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

PAGE = 4096


@dataclass(frozen=True)
class Hit:
    """The file that is damaged, and what others there are to put in its place.

    Attributes
    ----------
    peers : the case's files of the same kind, this one among them.
    kin : the case's files of a neighbouring kind that belong to the same item or run.
    trees : files of the same kind, by the tree that they lie in.
    """

    path: Path
    rng: Random
    peers: Sequence[Path] = ()
    kin: Sequence[Path] = ()
    trees: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)

    def edit(self, change: Callable[[str], str]) -> None:
        """Change the file's text."""
        self.write(change(self.data.decode()).encode())

    def lines(self, change: Callable[[list[str]], list[str]]) -> None:
        """Change the file's lines, each with its end."""
        self.edit(lambda text: "".join(change(text.splitlines(keepends=True))))

    def replace(self, other: Path) -> None:
        """Put a copy of another file in its place."""
        shutil.copyfile(other, self.path)


Damage = Callable[[Hit], None]


def flip(low: float = 0.0, high: float = 1.0) -> Damage:
    """One bit between two shares of the file's length."""

    def damage(hit: Hit) -> None:
        data = bytearray(hit.data)
        place = min(int(hit.rng.uniform(low, high) * len(data)), len(data) - 1)
        data[place] ^= 1 << hit.rng.randrange(8)
        hit.write(bytes(data))

    return damage


def truncate(hit: Hit) -> None:
    data = hit.data
    hit.write(data[: hit.rng.choice([1, len(data) - 1, hit.rng.randrange(len(data))])])


def empty(hit: Hit) -> None:
    hit.write(b"")


def zero_page(hit: Hit) -> None:
    """One page of the file, or what a small file has of one."""
    data = hit.data
    start = hit.rng.randrange(-(-len(data) // PAGE)) * PAGE
    end = min(start + PAGE, len(data))
    hit.write(data[:start] + bytes(end - start) + data[end:])


def append(hit: Hit) -> None:
    more = hit.rng.choice([bytes(PAGE), hit.rng.randbytes(hit.rng.randint(1, 64)), hit.data])
    hit.write(hit.data + more)


def noise(hit: Hit) -> None:
    data = bytearray(hit.data)
    start = hit.rng.randrange(len(data))
    length = min(hit.rng.randint(2, 64), len(data) - start)
    data[start : start + length] = hit.rng.randbytes(length)
    hit.write(bytes(data))


def shift(hit: Hit) -> None:
    """A byte lost, or one too many, in the middle."""
    data, place = hit.data, hit.rng.randrange(len(hit.data))
    more = hit.rng.choice([b"", data[place : place + 1] * 2])
    hit.write(data[:place] + more + data[place + 1 :])


def remove(hit: Hit) -> None:
    hit.path.unlink()


def folder(hit: Hit) -> None:
    hit.path.unlink()
    hit.path.mkdir()


def endless_link(hit: Hit) -> None:
    """A link to itself: the system refuses to open it, as it does on a failing disk."""
    hit.path.unlink()
    hit.path.symlink_to(hit.path)


def not_utf8(hit: Hit) -> None:
    data, place = hit.data, hit.rng.randrange(len(hit.data))
    hit.write(data[:place] + hit.rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80"]) + data[place:])


def utf16(hit: Hit) -> None:
    """Saved by an editor that thinks UTF-16 is the standard."""
    hit.write(hit.data.decode().encode("utf-16"))


def byte_order_mark(hit: Hit) -> None:
    hit.write(b"\xef\xbb\xbf" + hit.data)


def dos_lines(hit: Hit) -> None:
    hit.write(hit.data.replace(b"\n", b"\r\n"))


def nested(hit: Hit) -> None:
    hit.write(b"[" * 100_000)


def peer(hit: Hit) -> None:
    """The same kind of file of another item or run."""
    hit.replace(hit.rng.choice([path for path in hit.peers if path != hit.path]))


def kin(hit: Hit) -> None:
    """Another kind of file of the same item or run."""
    hit.replace(hit.rng.choice(list(hit.kin)))


def from_tree(name: str) -> Damage:
    """The same item's or run's file, made with another setting."""

    def damage(hit: Hit) -> None:
        others = hit.trees[name]
        place = list(hit.peers).index(hit.path)
        hit.replace(others[place] if len(others) == len(hit.peers) else hit.rng.choice(others))

    return damage


# Lines


def lose_line(hit: Hit) -> None:
    hit.lines(lambda lines: [*lines[: (i := hit.rng.randrange(len(lines)))], *lines[i + 1 :]])


def double_line(hit: Hit) -> None:
    hit.lines(lambda lines: [*lines[: (i := hit.rng.randrange(len(lines)))], *lines[i:][:1] * 2,
                             *lines[i + 1 :]])  # fmt: skip


def reorder_lines(hit: Hit) -> None:
    def change(lines: list[str]) -> list[str]:
        if len(lines) < 2:
            return [*lines, *lines]
        i, j = hit.rng.sample(range(len(lines)), 2)
        lines[i], lines[j] = lines[j], lines[i]
        return lines

    hit.lines(change)


def blank_lines(hit: Hit) -> None:
    hit.lines(lambda lines: [line + "\n" * hit.rng.randint(0, 2) for line in ["\n", *lines]])


def cut_line(hit: Hit) -> None:
    """A line's second half is gone, its end stays."""

    def change(lines: list[str]) -> list[str]:
        i = hit.rng.randrange(len(lines))
        lines[i] = lines[i][: hit.rng.randrange(len(lines[i]))] + "\n"
        return lines

    hit.lines(change)


def join_lines(hit: Hit) -> None:
    """A line's end is gone."""
    ends = [found.start() for found in re.finditer(b"\n", hit.data)]
    place = hit.rng.choice(ends)
    hit.write(hit.data[:place] + hit.data[place + 1 :])


def edit_digit(hit: Hit) -> None:
    """One digit becomes another."""
    places = [found.start() for found in re.finditer(rb"\d", hit.data)]
    data, place = bytearray(hit.data), hit.rng.choice(places)
    data[place] = hit.rng.choice([d for d in b"0123456789" if d != data[place]])
    hit.write(bytes(data))


def edit_letter(hit: Hit) -> None:
    """One letter becomes another."""
    places = [found.start() for found in re.finditer(rb"[a-z]", hit.data)]
    data, place = bytearray(hit.data), hit.rng.choice(places)
    data[place] = hit.rng.choice([d for d in b"abcdefghijklmnopqrstuvwxyz" if d != data[place]])
    hit.write(bytes(data))


# JSON: a whole file, or one of a file's lines


def json_edit(change: Callable[[dict[str, Any] | list[Any], Any, Random], Any]) -> Damage:
    """Change one place of a JSON document.

    Parameters
    ----------
    change : is given a dict or list, one of its keys or indices, and the generator.
    """

    def damage(hit: Hit) -> None:
        text = hit.data.decode()
        lines = text.splitlines() if hit.path.suffix == ".jsonl" else [text]
        number = hit.rng.randrange(len(lines))
        document = json.loads(lines[number])
        places = list(_places(document))
        for _ in range(100):
            holder, key = hit.rng.choice(places)
            if change(holder, key, hit.rng) is not False:
                break
        indent = None if len(lines) > 1 or hit.path.suffix == ".jsonl" else 2
        lines[number] = json.dumps(document, indent=indent, ensure_ascii=False)
        hit.write(("\n".join(lines) + "\n").encode())

    return damage


def _places(value: Any) -> Any:
    """Every dict with each key and every list with each index, the outer ones more than once."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            yield from _places(value[key])


@json_edit
def lose_key(holder: Any, key: Any, rng: Random) -> None:
    del holder[key]


@json_edit
def rename_key(holder: Any, key: Any, rng: Random) -> bool:
    if not isinstance(holder, dict):
        return False
    holder[rng.choice([key.upper() + "x", key[:-1], f"{key}s"])] = holder.pop(key)
    return True


@json_edit
def other_value(holder: Any, key: Any, rng: Random) -> None:
    """A value of another type, or another value of its type."""
    old = holder[key]
    values = [None, True, 0, 1, -1, 2.5, "", "x", [], {}, [old], {"x": old}, str(old)]
    holder[key] = rng.choice([v for v in values if (type(v), v) != (type(old), old)])


@json_edit
def no_number(holder: Any, key: Any, rng: Random) -> bool:
    """NaN or an infinity, which Python's JSON reads."""
    if type(holder[key]) not in (int, float):
        return False
    holder[key] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return True


@json_edit
def other_order(holder: Any, key: Any, rng: Random) -> bool:
    if not isinstance(holder[key], list) or len(holder[key]) < 2:
        return False
    holder[key].insert(0, holder[key].pop())
    return True


def half_character(hit: Hit) -> None:
    """Half of a surrogate pair: JSON may hold it, UTF-8 may not."""
    places = [found.start() for found in re.finditer(rb"\w", hit.data)]
    data, place = hit.data, hit.rng.choice(places)
    hit.write(data[:place] + hit.rng.choice([b"\\ud83d", b"\\uDE00"]) + data[place:])


def reformatted(hit: Hit) -> None:
    """The same document with its keys in another order and other blanks."""
    text = hit.data.decode()
    lines = text.splitlines() if hit.path.suffix == ".jsonl" else [text]
    found = [json.dumps(json.loads(line), sort_keys=True, indent=None) for line in lines]
    hit.write(("\n".join(found) + "\n").encode())


def other_document(hit: Hit) -> None:
    hit.write(hit.rng.choice([b"{}", b"[]", b"null", b"0", b'"x"', b"[{}]", b"NaN", b"{"]))


# YAML


def other_scalar(hit: Hit) -> None:
    """A setting's value becomes something that YAML reads as another type, or not at all."""

    def change(lines: list[str]) -> list[str]:
        number = hit.rng.choice([i for i, line in enumerate(lines) if ": " in line])
        key = lines[number].partition(":")[0]
        lines[number] = f"{key}: {hit.rng.choice(SCALARS)}\n"
        return lines

    hit.lines(change)


def indented(hit: Hit) -> None:
    """A line moves right or left, by blanks or a tab."""

    def change(lines: list[str]) -> list[str]:
        number = hit.rng.randrange(len(lines))
        line = lines[number]
        lines[number] = hit.rng.choice([f" {line}", f"\t{line}", line.lstrip(), f"    {line}"])
        return lines

    hit.lines(change)


SCALARS = (
    "", "null", "~", "true", "0", "-1", "1.5", ".nan", ".inf", "1e400", "x", "[]", "{}", "[1, 2]",
    "{a: 1}", "2001-99-99", "2001-01-01", "0x1f", "1:99", "'", '"', "*a", "&a x", "!!python/none",
    "!x y", "|", "? x", "%", "@", "'[('", "1" * 5000,
)  # fmt: skip

BYTES: dict[str, Damage] = {
    "bit flipped": flip(),
    "truncated": truncate,
    "emptied": empty,
    "page zeroed": zero_page,
    "bytes appended": append,
    "noise": noise,
    "byte lost or doubled": shift,
    "missing": remove,
    "a folder instead": folder,
    "not to be opened": endless_link,
    "nested deeply": nested,
}
TEXT: dict[str, Damage] = {
    "not UTF-8": not_utf8,
    "UTF-16": utf16,
    "byte order mark": byte_order_mark,
    "CRLF lines": dos_lines,
    "digit edited": edit_digit,
    "letter edited": edit_letter,
}
LINES: dict[str, Damage] = {
    "line lost": lose_line,
    "line doubled": double_line,
    "lines reordered": reorder_lines,
    "blank lines": blank_lines,
    "line cut": cut_line,
    "lines joined": join_lines,
}
JSON: dict[str, Damage] = {
    "key lost": lose_key,
    "key renamed": rename_key,
    "other value": other_value,
    "NaN or infinity": no_number,
    "list reordered": other_order,
    "half a character": half_character,
    "reformatted": reformatted,
    "other document": other_document,
}
YAML: dict[str, Damage] = {"other value": other_scalar, "line indented": indented}
# What is always the same damage to a file.
FIXED = {
    "emptied", "missing", "a folder instead", "not to be opened", "nested deeply", "UTF-16",
    "byte order mark", "CRLF lines", "reformatted",
}  # fmt: skip
