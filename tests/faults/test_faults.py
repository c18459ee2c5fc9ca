"""Whatever happens to a file, the next command is right, or it refuses in one line."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.faults.cases import Case, attempt, plan
from tests.faults.verdict import REFUSED, RIGHT

CASES = 540
BATCHES: dict[tuple[str, str], list[Case]] = defaultdict(list)
for case in plan(CASES):
    BATCHES[case.target, case.damage].append(case)


def test_there_are_enough():
    assert sum(map(len, BATCHES.values())) == CASES >= 500


@pytest.mark.parametrize("pair", BATCHES, ids=": ".join)
def test_damage(stand, pair):
    found = {case: attempt(stand, case) for case in BATCHES[pair]}
    failed = [f"{case}: {v}" for case, v in found.items() if v.outcome not in (RIGHT, REFUSED)]
    assert not failed, "\n".join(failed)
