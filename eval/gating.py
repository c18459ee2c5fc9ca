"""The gate before any figure: run once per model, dtype and back end, then remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import gate
from models.atomic import writing
from models.errors import UserError
from stage.environment import code, machine
from stage.session import Session


def checked(session: Session) -> dict[str, Any]:
    """The gate's outcome for this session's model, from the remembered one where it still holds.

    Raises
    ------
    UserError : the model fails its gate: no result of it would mean anything.
    """
    path = Path(session.config.outputs) / session.source.name / "gate.json"
    key = {
        "weights": session.loaded.fingerprint,
        "tokenizer": session.tokenizer_fingerprint,
        "dtype": str(session.loaded.dtype),
        "backend": session.engine.backend,
        "code": code(),
        **machine(session.loaded.device),
    }
    known = _read(path)
    entry = next((entry for entry in known if entry["key"] == key), None)
    if entry is None:
        print("eval: running the gate (once per model, dtype and back end)", flush=True)
        entry = {"key": key, "gate": run(session)}
        with writing(path) as file:
            file.write(json.dumps([*known, entry], indent=2).encode())
    if not entry["gate"]["passed"]:
        raise UserError(
            f"{session.source.name} fails its gate, so no result of it is reported; "
            f"see make gate MODEL={session.config.model}, and remove {path} to try again"
        )
    return entry["gate"]


def run(session: Session) -> dict[str, Any]:
    """Run the gate on the first item of the inputs that has at least two chunks, or the first."""
    items = session.inputs.items
    item = next((item for item in items if len(item.prompt.chunks) > 1), items[0])
    outcome = gate.run(session.engine, item.prompt, session.inputs.sink).as_dict()
    return {"item": item.id, **outcome}


def table(outcome: dict[str, Any]) -> str:
    """The gate for people: each check with its distance in logits."""
    lines = [
        f"gate on item {outcome['item']}, {outcome['tokens']} tokens, "
        f"tolerance {outcome['tolerance']:g} in logits"
    ]
    for check in outcome["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        tokens = "same" if check["tokens_equal"] else "other"
        lines.append(
            f"  {verdict}  {check['name']:<38} distance {check['distance']:.1e}, "
            f"{tokens} greedy tokens"
        )
    return "\n".join(lines)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in entries if {"key", "gate"} <= entry.keys()]
    except (OSError, ValueError, AttributeError, TypeError):
        return []
