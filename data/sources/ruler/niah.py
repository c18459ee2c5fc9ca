"""RULER's needles in a haystack: one or several, in essays, in noise, or among other needles."""

from __future__ import annotations

import random
import uuid
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from data.sources import haystack
from data.sources.ruler.sample import Cell, Draft, Sample
from data.sources.ruler.vocabulary import words
from models.errors import UserError

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = tuple(round(100 * step / 39) for step in range(40))
HAYSTACKS = ("noise", "essay", "needle")
KINDS = ("words", "numbers", "uuids")
# Typical tokens of a unit: a word of an essay, a line of noise, a line that is a needle.
_RATES = {"noise": 25.0, "essay": 1.4, "needle": 40.0}


@dataclass(frozen=True)
class Niah:
    """Find the values of the keys asked for: `num_needle_q` of `num_needle_k` keys.

    Every key has `num_needle_v` values, each in a needle (a sentence) of its own. Keys and values
    are words (adjective-noun), numbers of seven digits, or uuids.
    """

    type_haystack: str = "essay"
    type_needle_k: str = "words"
    type_needle_v: str = "numbers"
    num_needle_k: int = 1
    num_needle_v: int = 1
    num_needle_q: int = 1

    def __post_init__(self) -> None:
        for name, known in (("haystack", HAYSTACKS), ("needle_k", KINDS), ("needle_v", KINDS)):
            if (value := getattr(self, f"type_{name}")) not in known:
                raise UserError(f"type_{name} must be one of {', '.join(known)}, not {value!r}")
        if min(self.num_needle_k, self.num_needle_v, self.num_needle_q) < 1:
            raise UserError("num_needle_k, num_needle_v and num_needle_q must be at least 1")
        if self.keys * self.num_needle_v > len(DEPTHS):
            raise UserError(f"at most {len(DEPTHS)} needles (keys times values) have a depth each")

    @property
    def keys(self) -> int:
        return max(self.num_needle_k, self.num_needle_q)

    def draft(self, cell: Cell) -> Draft:
        """Keys, values and depths are drawn here; only the amount of haystack is open.

        The needle asked for (the first of them) goes through all 40 depths in 40 rows, in an
        order drawn anew for every 40; the other needles lie at depths drawn from the rest.
        """
        stream = cell.stream("needles")
        keys = _several(self.type_needle_k, self.keys, stream, set())
        values = _several(self.type_needle_v, self.keys * self.num_needle_v, stream, set())
        asked = stream.sample(range(self.keys), self.num_needle_q)
        per = self.num_needle_v
        of_key = [values[k * per : (k + 1) * per] for k in range(self.keys)]
        answers = [value for k in asked for value in of_key[k]]
        needles = {
            value: self._needle(keys[k], value) for k in range(self.keys) for value in of_key[k]
        }

        block, place = divmod(cell.index, len(DEPTHS))
        depth = cell.shared("depths", block).sample(DEPTHS, len(DEPTHS))[place]
        others = [value for value in values if value != answers[0]]
        free = [other for other in DEPTHS if other != depth]
        depths = dict(zip(stream.sample(free, len(others)), others, strict=True))
        depths[depth] = answers[0]
        placed = [(at, needles[depths[at]]) for at in sorted(depths)]

        query = _listed([keys[k] for k in asked])
        reported = depth if len(answers) == 1 else None
        lines = self._lines(cell, taken=set(keys) | set(values))

        def build(size: int) -> Sample:
            return Sample(_hide(placed, *self._hay(cell, lines, size)), query, answers, reported)

        return Draft(build, _RATES[self.type_haystack], smallest=len(placed))

    def reads(self, folder: str | None) -> list[object]:
        """The essays' text and the words, where they are used."""
        essay = haystack.load(folder)[0] if self.type_haystack == "essay" else None
        kinds = {self.type_needle_k, self.type_needle_v}
        return [essay, [words("adjective"), words("noun")] if "words" in kinds else None]

    def _needle(self, key: str, value: str) -> str:
        return f"One of the special magic {self.type_needle_v} for {key} is: {value}."

    def _lines(self, cell: Cell, taken: set[str]) -> _Growing:
        """Needles that nobody asks for; their keys and values are those of no other needle."""
        stream = cell.stream("distractors")

        def draw() -> Iterator[str]:
            while True:
                key, value = (
                    _several(kind, 1, stream, taken)[0]
                    for kind in (self.type_needle_k, self.type_needle_v)
                )
                yield self._needle(key, value)

        return _Growing(draw())

    def _hay(self, cell: Cell, lines: _Growing, size: int) -> tuple[list[str], str]:
        """The haystack's units between which a needle may lie, and what joins them."""
        if self.type_haystack == "essay":
            essay = _words_of(haystack.load(cell.haystack)[0])
            text = " ".join((essay * (1 + size // len(essay)))[:size])
            return [sentence.rstrip() for sentence in haystack.sentences(text)], " "
        return ([NOISE] * size if self.type_haystack == "noise" else lines.first(size)), "\n"


class _Growing:
    """The first so many of an endless series, the same ones at every call."""

    def __init__(self, series: Iterator[str]) -> None:
        self._series = series
        self._drawn: list[str] = []

    def first(self, count: int) -> list[str]:
        while len(self._drawn) < count:
            self._drawn.append(next(self._series))
        return self._drawn[:count]


def _hide(placed: list[tuple[int, str]], units: list[str], joint: str) -> str:
    """The units with each needle at the end of the unit that is nearest to its depth.

    Depth counts characters. RULER counts sentences, which crowds the needles where they are short.
    """
    ends = [0, *accumulate(len(unit) + len(joint) for unit in units)]
    parts, start = [], 0
    for depth, needle in placed:
        wanted = ends[-1] * depth / 100
        end = bisect_left(ends, wanted)
        end -= end > 0 and wanted - ends[end - 1] < ends[end] - wanted
        parts += [*units[start:end], needle]
        start = end
    return joint.join(parts + units[start:])


def _listed(keys: list[str]) -> str:
    return f"{', '.join(keys[:-1])}, and {keys[-1]}" if len(keys) > 1 else keys[0]


@lru_cache(maxsize=2)
def _words_of(text: str) -> list[str]:
    return text.split()


def _several(kind: str, count: int, stream: random.Random, taken: set[str]) -> list[str]:
    """`count` words, numbers or uuids that are not yet `taken`, and now are."""
    found: list[str] = []
    while len(found) < count:
        if kind == "words":
            made = f"{stream.choice(words('adjective'))}-{stream.choice(words('noun'))}"
        elif kind == "numbers":
            made = str(stream.randint(10**6, 10**7 - 1))
        else:
            made = str(uuid.UUID(int=stream.getrandbits(128), version=4))
        if made not in taken:
            taken.add(made)
            found.append(made)
    return found
