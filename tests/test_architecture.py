"""Arrows between folders go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "models": {"models"},
    "data": {"data", "models"},
    "stage": {"stage", "data", "models"},
    "chunk": {"chunk", "stage", "data", "models"},
    "precompute": {"precompute", "chunk", "stage", "data", "models"},
    "store": {"store", "precompute", "chunk", "stage", "data", "models"},
    "eval": {"eval", "store", "precompute", "chunk", "stage", "data", "models"},
    "bench": {"bench", "store", "precompute", "chunk", "stage", "data", "models"},
    "kvfuse": {
        "kvfuse",
        "bench",
        "eval",
        "store",
        "precompute",
        "chunk",
        "stage",
        "data",
        "models",
    },
}
FILES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(str(node.module).split(".")[0])
    return found


def test_there_is_something_to_look_at():
    assert len(FILES) > 30
    assert {"models", "torch"} <= imported(ROOT / "models" / "prefilling.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_folder_may(path):
    folder = path.relative_to(ROOT).parts[0]
    assert imported(path) & (ALLOWED.keys() | {"tests"}) <= ALLOWED[folder]
