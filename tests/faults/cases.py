"""Cases: one file damaged in one way, the command that a user runs next, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from tests.faults import verdict
from tests.faults.damage import FIXED, Hit
from tests.faults.stand import METHODS, SETTINGS, Stand
from tests.faults.targets import FRESH, SLOW, TARGETS, Target
from tests.faults.verdict import REFUSED, RIGHT, SILENT, TRACEBACK, Verdict
from tests.stages.harness import Outcome


@dataclass(frozen=True)
class Case:
    """One kind of damage to one kind of file; the seed decides which file and where."""

    target: str
    damage: str
    seed: str

    def __str__(self) -> str:
        return f"{self.target}, {self.damage}, seed {self.seed!r}"


def plan(count: int, seed: int = 0) -> list[Case]:
    """At least one case for every kind of damage to every kind of file, and ``count`` in all.

    Further ones go to what differs from seed to seed and is quick.
    """
    pairs = [(name, damage) for name, target in TARGETS.items() for damage in target.damages]
    varied = [pair for pair in pairs if pair[1] not in FIXED and pair[0] not in SLOW]
    chosen = [*pairs, *islice(cycle(varied), max(0, count - len(pairs)))]
    numbers: dict[tuple[str, str], int] = {}
    cases = []
    for pair in chosen:
        numbers[pair] = numbers.get(pair, -1) + 1
        cases.append(Case(*pair, f"{seed}.{numbers[pair]}"))
    return sorted(cases, key=lambda case: pairs.index((case.target, case.damage)))


def attempt(stand: Stand, case: Case) -> Verdict:
    """Damage one file of a copy of finished work and run what a user would run next."""
    target = TARGETS[case.target]
    rng = Random(f"{case.target}/{case.damage}/{case.seed}")
    tree = rng.choice(list(target.trees))
    stand.restore(tree)
    path, was = _damage(stand, target, case, rng)
    before = verdict.contents(stand.case)
    damaged = before.get(path)
    outcome = stand.run(target.stage, SETTINGS[target.setting])
    if verdict.escaped(outcome):
        return Verdict(TRACEBACK, outcome.err.strip()[-500:])
    left = verdict.leftover(stand.case)
    if left:
        return Verdict(SILENT, left)
    if outcome.code:
        wrong = verdict.refusal(target.stage, outcome, path)
        if wrong:
            return Verdict(TRACEBACK, wrong)
        spared = stand.case / "kvs" if target.expected == FRESH else None
        gone = verdict.lost(before, path, spared)
        return Verdict(SILENT, gone) if gone else Verdict(REFUSED, outcome.err.strip(), told=True)
    told = verdict.told(outcome)
    rebuilt = path.is_file() and path.read_bytes() == was
    unlike = _unlike(stand, target, tree, outcome, path, damaged)
    if unlike:
        return Verdict(SILENT, unlike, told, rebuilt)
    noise = verdict.noise(outcome)
    if noise:
        return Verdict(TRACEBACK, noise, told, rebuilt)
    return Verdict(RIGHT, "", told, rebuilt)


def _damage(stand: Stand, target: Target, case: Case, rng: Random) -> tuple[Path, bytes]:
    """The file that was damaged, and what it held before."""
    peers = target.files(stand.case)
    trees = {name: target.files(root) for name, root in stand.trees.items()}
    for _ in range(100):
        path = rng.choice(peers)
        kin = [other for name in target.kin for other in path.parent.glob(name)]
        was = path.read_bytes()
        target.damages[case.damage](Hit(path, rng, peers, kin, trees))
        if not path.is_file() or path.read_bytes() != was:
            return path, was
    raise AssertionError(f"{case} changes nothing")


def _unlike(
    stand: Stand, target: Target, tree: str, outcome: Outcome, path: Path, damaged: bytes | None
) -> str | None:
    """Where the results are not those that they should be."""
    if target.stage == "report":
        return None if outcome.out == stand.report else f"another report: {outcome.out[:600]}"
    try:
        found = verdict.results(outcome, METHODS)
    except (OSError, ValueError, AssertionError, KeyError) as error:
        return f"no results: {error}"
    wanted = stand.found[target.setting]
    if target.expected == FRESH:
        stand.restore(tree)
        stand.clear()
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        fresh = stand.run(target.stage, SETTINGS[target.setting])
        if fresh.code:
            return f"made anew it is refused: {fresh.err.strip()[:600]}"
        wanted = verdict.results(fresh, METHODS)
    return verdict.difference(found, wanted)


def failures(stand: Stand, cases: list[Case]) -> Iterator[str]:
    """The cases that end silently wrong or in a traceback, in words."""
    for case in cases:
        found = attempt(stand, case)
        if found.outcome not in (RIGHT, REFUSED):
            yield f"{case}: {found.outcome}: {found.detail}"
