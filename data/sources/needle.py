"""Needle in a haystack: rows that hide one fact in a text, at every length and depth of a grid.

After Kamradt, "Pressure testing GPT-4-128K" (2023), with the needle placed by tokens.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import accumulate

from data.dataset import Dataset
from data.hashing import combine
from data.request import Request
from data.row import Row, Rows
from data.sources.haystack import load, sentences
from models.errors import UserError

DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
STEPS, SHORTEST = 5, 256
# A prompt shorter than this share of its length gets part of a sentence as well.
FULL = 0.97


@dataclass(frozen=True)
class Needle:
    """A sentence that holds a fact, the question about it, and the words that answer it."""

    needle: str
    question: str
    answer: str


def read(dataset: Dataset, request: Request) -> Rows:
    """Rows of the grid, lengths outer and depths inner; `where` is the haystack's place.

    Ids are ``<length>_<depth>``, and ``-2``, ``-3``, … are added to those of a cell's further
    items. Needles take turns so that no length and no depth has one of its own. Which part of
    the haystack a cell gets depends on the cell and the seed, not on the rest of the grid.

    Raises
    ------
    UserError : a depth outside 0 to 100, a length that exceeds the model's room or that no needle
        fits into, an unreadable haystack, or bad needles in the dataset's entry.
    """
    needles, per_cell = _parameters(dataset)
    lengths, depths = grid(request)
    text, where = load(request.haystack)
    # Sentences are taken in a circle: the blank line parts the text's end from its start.
    hidden = sentences(text + "\n\n")
    cells = [
        (length, depth, copy, needles[(row + column + copy + request.seed) % len(needles)])
        for column, length in enumerate(lengths)
        for row, depth in enumerate(depths)
        for copy in range(per_cell)
    ]
    rows = []
    for length, depth, copy, needle in cells[: request.limit]:
        name = f"{length}_{depth:g}"
        end = random.Random(f"{request.seed}/{name}/{copy}").randrange(len(hidden))
        row = _row(dataset, needle, length, depth, name + (f"-{copy + 1}" if copy else ""))

        def tokens(context: str, row: Row = row) -> int:
            return request.measure(replace(row, context=context))

        context = hide(needle.needle, tokens, hidden, end, length, depth)
        words = f"{needle.question} {context} {needle.answer}".split()
        rows.append(replace(row, context=context, length=len(words)))
    return Rows(rows, "generator", where, False, len(cells))


def digest(dataset: Dataset, request: Request) -> str:
    """A hash of the needles, the grid, the seed, the haystack and the prompt around it."""
    needles, per_cell = _parameters(dataset)
    facts = [asdict(needle) for needle in needles]
    template = [dataset.instruction, dataset.question, dataset.answer_prefix]
    text = load(request.haystack)[0]
    return combine(facts, per_cell, *grid(request), request.seed, text, template)


def grid(request: Request) -> tuple[list[int], list[float]]:
    """The lengths and depths asked for, each once, or even steps up to the model's room."""
    shortest = min(max(request.room // STEPS, SHORTEST), request.room)
    step = (request.room - shortest) / (STEPS - 1)
    even = [shortest + round(i * step) for i in range(STEPS)]
    lengths = list(dict.fromkeys(request.lengths or even))
    depths = list(dict.fromkeys(float(depth) for depth in request.depths or DEPTHS))
    for depth in depths:
        if not 0 <= depth <= 100:
            raise UserError(f"DEPTHS={depth:g} is no depth: give percent of the context, 0 to 100")
    for length in lengths:
        if not 1 <= length <= request.room:
            raise UserError(
                f"LENGTHS={length} does not fit: a prompt may have 1 to {request.room} tokens "
                "beside its answer"
            )
    return lengths, depths


def hide(
    needle: str,
    tokens: Callable[[str], int],
    hidden: list[str],
    end: int,
    length: int,
    depth: float,
) -> str:
    """The context of a prompt of at most ``length`` tokens, with the needle among its sentences.

    Parameters
    ----------
    tokens : tokens of the whole prompt that a context makes.
    hidden : the haystack's sentences, each with the space after it, taken in a circle.
    end : index behind the last sentence that is used; the others are those before it.
    depth : percent of the haystack's tokens that come before the needle, at the nearest boundary.
    """
    least = tokens(needle)
    if least > length:
        raise UserError(
            f"LENGTHS={length} is too short for a needle: its prompt alone takes {least} tokens"
        )
    room = length
    while True:
        pieces = _fill(needle, tokens, hidden, end, room)
        at = _boundary(pieces, tokens, depth)
        before, after = "".join(pieces[:at]), "".join(pieces[at:])
        gap = " " if before and not before[-1].isspace() else ""
        context = f"{before}{gap}{needle} {after}".rstrip()
        # Where the needle stands changes, by a token or two, how its neighbours are split.
        excess = tokens(context) - length
        if excess <= 0 or not pieces:
            return context
        room -= excess


def _fill(
    needle: str, tokens: Callable[[str], int], hidden: list[str], end: int, room: int
) -> list[str]:
    """As many sentences before ``end`` as fit beside the needle.

    Where they leave much room, the first is only a sentence's last words: a text may begin in the
    middle of a sentence, while a needle must not stand in one.
    """

    def window(count: int) -> list[str]:
        return [hidden[i % len(hidden)] for i in range(end - count, end)]

    @cache
    def total(count: int) -> int:
        return tokens("".join(window(count)) + needle)

    empty, guess = total(0), 1 + room // 32
    for _ in range(3):
        guess = min(max(1, guess * (room - empty) // max(total(guess) - empty, 1)), room)
    count = _last(total, room, guess, room)
    pieces = window(count)
    if total(count) >= FULL * room:
        return pieces
    before = hidden[(end - count - 1) % len(hidden)]
    words = [match.end() for match in re.finditer(r"\s+", before.rstrip())]
    tails = [f"... {before[start:]}" for start in reversed(words or range(1, len(before)))]
    fitting = bisect_right(tails, room, key=lambda tail: tokens("".join([tail, *pieces]) + needle))
    return tails[fitting - 1 : fitting] + pieces if fitting else pieces


def _boundary(pieces: list[str], tokens: Callable[[str], int], depth: float) -> int:
    """How many pieces come before the boundary nearest to ``depth`` percent of their tokens."""

    @cache
    def before(count: int) -> int:
        return tokens("".join(pieces[:count]).rstrip())

    target = before(0) + (before(len(pieces)) - before(0)) * depth / 100
    sizes = list(accumulate(map(len, pieces), initial=0))
    at = _last(before, target, bisect_right(sizes, sizes[-1] * depth / 100) - 1, len(pieces))
    nearer = at < len(pieces) and before(at + 1) - target < target - before(at)
    return at + 1 if nearer else at


def _last(value: Callable[[int], int], limit: float, guess: int, top: int) -> int:
    """The greatest n of 0 to ``top`` with ``value(n) <= limit``: few calls if the guess is near.

    ``value`` never falls, and ``value(0)`` is within the limit.
    """
    low = min(max(guess, 0), top)
    step = 1
    while low > 0 and value(low) > limit:
        low, step = max(0, low - step), 2 * step
    high, step = low, 1
    while high < top and value(high) <= limit:
        low, high, step = high, min(top, high + step), 2 * step
    return max(0, low + bisect_right(range(low, high + 1), limit, key=value) - 1)


def _parameters(dataset: Dataset) -> tuple[list[Needle], int]:
    where = f"dataset {dataset.name!r}: parameters"
    entries = dataset.parameters.get("needles")
    if not (isinstance(entries, list) and entries):
        raise UserError(f"{where}: needles must list at least one needle; mend the entry")
    for entry in entries:
        known = isinstance(entry, dict) and set(entry) == set(Needle.__annotations__)
        if not (known and all(isinstance(value, str) and value for value in entry.values())):
            raise UserError(
                f"{where}: a needle must have the texts needle, question and answer, not {entry!r}"
            )
        if entry["answer"].lower() not in entry["needle"].lower():
            raise UserError(f"{where}: the needle {entry['needle']!r} does not hold its answer")
    per_cell = dataset.parameters.get("needles_per_cell", 1)
    if type(per_cell) is not int or per_cell < 1:
        raise UserError(f"{where}: needles_per_cell must be 1 or more, not {per_cell!r}")
    return [Needle(**entry) for entry in entries], per_cell


def _row(dataset: Dataset, needle: Needle, length: int, depth: float, name: str) -> Row:
    return Row(
        name,
        needle.question,
        answers=[needle.answer, needle.needle],
        length=0,
        language=dataset.language,
        details={"depth": depth, "context_length": length},
    )
