"""What became of a damaged file: the right results, a refusal, other results, or a bug of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.hearing import ESCAPED
from tests.stages.harness import Outcome, strict, timeless

RIGHT, REFUSED, SILENT, TRACEBACK = OUTCOMES = ("right", "refused", "SILENT", "TRACEBACK")
DONE = re.compile(r"^eval: \S+ (\S+) -> (.+)$", re.MULTILINE)
SAYS = re.compile(
    r"damaged|edited|not believed|anew|of other |missing|not what|something else|left out"
)
REMEDY = re.compile(
    r"make [a-z]+|FRESH=1|[A-Z_]{4,}=|mend|remove|move it|check|supported are|fetch|rebuild|save"
    r"|rename|delete"
    r"|add it|choose from|did you mean|must be|name (a|one|another)|give (a|one|another)"
)
OURS = re.compile(r"^(eval|report|chunk|precompute): |^\*\*\* |^converting |.* is damaged \(.*")


@dataclass(frozen=True)
class Verdict:
    """An outcome with what led to it.

    Attributes
    ----------
    told : some line said that the file was not as it should be. rebuilt : its bytes are again what
        they were before the damage.
    """

    outcome: str
    detail: str = ""
    told: bool = False
    rebuilt: bool = False


def results(outcome: Outcome, methods: Collection[str]) -> dict[str, Any]:
    """By method what a finished evaluation says, but for what a clock decides.

    Raises
    ------
    ValueError : a method is lacking, or a result is no JSON.
    """
    folders = dict(DONE.findall(outcome.out))
    if set(folders) != set(methods):
        raise ValueError(f"finished {', '.join(folders)}")
    found = {}
    for method, folder in folders.items():
        result = strict((Path(folder) / "result.json").read_text(encoding="utf-8"))
        kept = {key: result[key] for key in ("config", "gate", "inputs", "n", "score", "kl_mean")}
        found[method] = {**kept, "items": [timeless(item) for item in result["items"]]}
    return found


def difference(found: Any, wanted: Any, where: str = "") -> str | None:
    """The first place where two results differ, with both values; or None."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        inner = (difference(found[key], wanted[key], f"{where}/{key}") for key in wanted)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        inner = (difference(*pair, f"{where}/{number}") for number, pair in pairs)
    else:
        return None if found == wanted else f"{where} is {found!r:.200} instead of {wanted!r:.200}"
    return next((told for told in inner if told), None)


def contents(root: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refusal(stage: str, outcome: Outcome, damaged: Path) -> str | None:
    """What is wrong with a refusal: it is one line that names the file or what to do."""
    lines = outcome.err.splitlines()
    if outcome.code != 2:
        return f"exit code {outcome.code}: {outcome.err.strip()[-300:]}"
    if len(lines) != 1 or not lines[0].startswith(f"{stage}: "):
        return f"{len(lines)} lines on stderr: {outcome.err.strip()[:600]}"
    if damaged.name not in lines[0] and not REMEDY.search(lines[0]):
        return f"neither the file nor a remedy is named: {lines[0]}"
    return None


def lost(before: Mapping[Path, bytes], damaged: Path, rebuilt: Path | None = None) -> str | None:
    """A finished file that is no longer what it was; below ``rebuilt`` they may be."""
    for path, old in before.items():
        if path == damaged or (rebuilt and path.is_relative_to(rebuilt)):
            continue
        if not path.is_file():
            return f"{path} is gone"
        new = path.read_bytes()
        if path.name == "records.jsonl":
            kept = new.startswith(old)
        elif path.name == "gate.json":
            kept = all(entry in json.loads(new) for entry in json.loads(old))
        else:
            kept = new == old
        if not kept:
            return f"{path} was changed"
    return None


def leftover(root: Path) -> str | None:
    """A temporary file that was left behind."""
    return next((f"{path} was left behind" for path in root.rglob(".*.tmp*")), None)


def noise(outcome: Outcome) -> str | None:
    """A line on stderr that is none of ours."""
    lines = [line for line in outcome.err.splitlines() if not OURS.search(line)]
    return f"on stderr: {lines[0]}" if lines else None


def told(outcome: Outcome) -> bool:
    """Whether some line said that something was not as it should be."""
    lines = [*outcome.err.splitlines(), *outcome.out.splitlines()]
    return any(OURS.search(line) and SAYS.search(line) for line in lines)


def escaped(outcome: Outcome) -> bool:
    return outcome.code == ESCAPED or "Traceback" in outcome.err
