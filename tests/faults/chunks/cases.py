"""Cases of the store: one thing that goes wrong, and what becomes of those who use it next."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random

from tests.faults.chunks import damaged, killed, remotes
from tests.faults.chunks.room import Room
from tests.faults.verdict import Verdict

CASES = {**damaged.CASES, **killed.CASES, **remotes.CASES}
# What is the same whatever the seed, or takes long.
FIXED = {"missing", "emptied", "a folder instead", "not to be opened"}


def plan(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Target, fault and seed: each pair at least once, and ``count`` in all."""
    varied = [pair for pair in CASES if pair[1] not in FIXED and pair[0] != "read-only folder"]
    numbers: dict[tuple[str, str], int] = {}
    found = []
    for pair in [*CASES, *islice(cycle(varied), max(0, count - len(CASES)))]:
        numbers[pair] = numbers.get(pair, -1) + 1
        found.append((*pair, f"{seed}.{numbers[pair]}"))
    order = list(CASES)
    return sorted(found, key=lambda case: order.index(case[:2]))


def attempt(room: Room, case: tuple[str, str, str]) -> Verdict:
    """Let it happen, and look at what it leaves."""
    target, fault, seed = case
    return CASES[target, fault](room, Random(f"{target}/{fault}/{seed}"))


def kills(room: Room) -> Iterator[tuple[tuple[str, str, str], Verdict]]:
    """Each work killed once before every line of the store's code that it runs."""
    for name in killed.WORKS:
        for at in killed.lines(room, name):
            yield ("killed", f"while {name}", str(at)), killed.killed_at(room, name, at)
