"""The map of the house is complete."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("models", "data", "stage", "chunk", "precompute", "store", "eval", "bench", "kvfuse")


def test_every_file_stands_in_the_map_and_nothing_else():
    mapped, room = set(), ""
    for line in (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\*\*`([\w/]+)/`\*\*", line):
            room = found[1]
        elif found := re.match(r"- `(\w+\.py)`:", line):
            mapped.add(f"{room}/{found[1]}")
    files = {
        path.relative_to(ROOT).as_posix()
        for top in ROOMS
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert mapped == files
