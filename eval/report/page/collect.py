"""Every run below some folders: finished ones, begun ones, damaged ones, and gates that failed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.folder import read_result
from eval.record import Record
from eval.report.figures import report
from models.errors import UserError
from models.sealed import parse, unseal

# What the page reads of a result beside the rows of ``figures.report``.
NEEDED = (
    "folder", "gate", "memory_mb", "revisions", "items", "ttft_parts_ms", "ttft_parts_ready_ms",
    "extra_scores", "tpot_ms", "scored",
)  # fmt: skip
CONFIG = (
    "model", "dataset", "weights", "tokenizer", "dtype", "backend", "inputs", "seed", "cold",
    "chunking",
)  # fmt: skip
REMEDY = "the same make eval writes it anew, or remove it"


@dataclass
class Found:
    """What lies below the folders.

    Attributes
    ----------
    results : finished runs as ``result.json`` holds them, by their time, ``folder`` where it lies.
    unfinished : of each begun run its ``folder``, how many items are ``done`` and ``wanted``.
    damaged : a line for each file that cannot be used.
    gates : as ``gate.json`` holds them, each with its ``key`` and ``model``.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The gates that did not pass."""
        return [entry for entry in self.gates if not entry["gate"]["passed"]]


def collect(roots: Sequence[Path]) -> Found:
    """Look below ``roots``, each once; a folder that is not there holds nothing."""
    found, dated = Found(), []
    for folder in _folders(roots):
        if os.path.lexists(path := folder / "result.json"):
            try:
                result = read_result(path) | {"folder": str(folder)}
                dated.append((path.lstat().st_mtime_ns, str(folder), complete(result, path)))
            except UserError as damage:
                found.damaged.append(str(damage))
        elif (folder / "config.json").is_file() and (folder / "records.jsonl").is_file():
            _begun(folder, found)
        if (folder / "gate.json").is_file():
            _gates(folder / "gate.json", found)
    found.results = [result for *_, result in sorted(dated, key=lambda one: one[:2])]
    return found


def complete(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The result, where it holds all that the page shows.

    Raises
    ------
    UserError : something is missing or of another type, as versions before this one left it.
    """
    try:
        report([result])
        for key in NEEDED:
            result[key]
        for key in CONFIG:
            result["config"][key]
        for item in result["items"]:
            Record.model_validate(item)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path} is of another version (item's {place}); {REMEDY}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is of another version ({error}); {REMEDY}") from None
    return result


def _folders(roots: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for root in roots:
        for name, below, _ in os.walk(root):
            below.sort()
            if (real := os.path.realpath(name)) not in seen:
                seen.add(real)
                yield Path(name)


def _begun(folder: Path, found: Found) -> None:
    try:
        config = unseal(parse((folder / "config.json").read_text(encoding="utf-8")))["config"]
        done = (folder / "records.jsonl").read_bytes().count(b"\n")
        found.unfinished.append({"folder": str(folder), "done": done, "wanted": config["items"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.damaged.append(f"{folder / 'config.json'} is damaged ({error}); {REMEDY}")


def _gates(path: Path, found: Found) -> None:
    from eval.gating import remembered  # brings the engine in, which nothing else here needs

    entries, damaged = remembered(path)
    if damaged:
        found.damaged.append(f"{path} is damaged or was edited: what it says is not believed")
    found.gates += [{**entry, "model": path.parent.name} for entry in entries]
