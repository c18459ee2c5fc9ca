"""``make faults``: damage every kind of file in many ways, and count what becomes of it.

Run it from the repository root: ``python -m tests.faults CASES=2000 SEED=0``, and with
``WHAT=store`` for the chunk store. Exit code 1 says that something was silently wrong or ended in a
traceback; each such case is printed with its seed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Before PyTorch is imported: a tiny model gains nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from kvfuse.variables import from_make
from models.errors import UserError
from stage.options import command, option
from tests.faults.cases import attempt, plan
from tests.faults.chunks import cases as chunks
from tests.faults.chunks.room import workroom as store_room
from tests.faults.stand import Stand, workroom
from tests.faults.table import Count, table
from tests.faults.verdict import REFUSED, RIGHT, Verdict

FAILED = 1
Found = Iterator[tuple[Any, tuple[str, str], Verdict]]


@dataclass
class FaultsConfig:
    """Damage one file at a time and run what a user would run next."""

    cases: int = option(2000, "how many cases; each kind of damage comes at least once (2000)")
    seed: int = option(0, "decides which file is damaged, and where (0)")
    what: str = option(
        "stages",
        "stages (what evaluations read), store (the chunk store) or kills (see docs/faults.md)",
    )

    def __post_init__(self) -> None:
        if self.what not in FROM:
            raise UserError(f"WHAT={self.what}: give {', '.join(FROM)}")


def main(config: FaultsConfig) -> None:
    """Try all cases; print each failure, and the table."""
    counts: dict[tuple[str, str], Count] = {}
    for what, pair, found in FROM[config.what](config):
        counts.setdefault(pair, Count()).add(found)
        if found.outcome not in (RIGHT, REFUSED):
            tqdm.write(f"{found.outcome}: {what}: {found.detail}")
    print(table(counts))
    if any(count.failures for count in counts.values()):
        raise SystemExit(FAILED)


def _of_stages(config: FaultsConfig) -> Found:
    with workroom() as room, Stand(Path(room)).ready() as stand:
        for case in tqdm(plan(config.cases, config.seed), "faults", unit="case", disable=None):
            yield case, (case.target, case.damage), attempt(stand, case)


def _of_store(config: FaultsConfig) -> Found:
    with store_room() as room:
        planned = chunks.plan(config.cases, config.seed)
        for case in tqdm(planned, "faults", unit="case", disable=None):
            yield ", ".join(case), case[:2], chunks.attempt(room, case)


def _of_kills(_: FaultsConfig) -> Found:
    with store_room() as room:
        for case, found in tqdm(chunks.kills(room), "faults", unit="case", disable=None):
            yield ", ".join(case), case[:2], found


FROM = {"stages": _of_stages, "store": _of_store, "kills": _of_kills}

if __name__ == "__main__":
    words = sys.argv[1:]
    if words == ["--make"]:
        words = from_make(os.environ.get("MAKEFLAGS", ""))
    sys.exit(command("faults", FaultsConfig, main, words))
