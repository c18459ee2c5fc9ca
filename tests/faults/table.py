"""What became of all cases, counted by kind of file and kind of damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stage.columns import columns
from tests.faults.verdict import OUTCOMES, RIGHT, SILENT, TRACEBACK, Verdict

HEAD = ["file", "damage", "cases", "right", "(told)", "(rebuilt)", *OUTCOMES[1:]]


@dataclass
class Count:
    """Cases by outcome; of the right ones, how many were told and how many left a whole file."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    told: int = 0
    rebuilt: int = 0

    def add(self, found: Verdict) -> None:
        self.outcomes[found.outcome] += 1
        if found.outcome == RIGHT:
            self.told += found.told
            self.rebuilt += found.rebuilt

    def merge(self, other: Count) -> None:
        for name, number in other.outcomes.items():
            self.outcomes[name] += number
        self.told += other.told
        self.rebuilt += other.rebuilt

    @property
    def failures(self) -> int:
        return self.outcomes[SILENT] + self.outcomes[TRACEBACK]

    def cells(self) -> list[str]:
        right, *rest = self.outcomes.values()
        numbers = [sum(self.outcomes.values()), right, self.told, self.rebuilt, *rest]
        return [str(number) if number else "-" for number in numbers]


def table(counts: Mapping[tuple[str, str], Count]) -> str:
    """A row for every pair, a total for each kind of file and for all."""
    rows, everything = [HEAD], Count()
    for target in dict.fromkeys(name for name, _ in counts):
        total = Count()
        for (name, damage), count in counts.items():
            if name == target:
                rows.append([name, damage, *count.cells()])
                total.merge(count)
        rows.append([target, "= all", *total.cells()])
        everything.merge(total)
    rows.append(["= all files", "", *everything.cells()])
    return "\n".join(columns(rows, ["<", "<", *[">"] * (len(HEAD) - 2)]))
