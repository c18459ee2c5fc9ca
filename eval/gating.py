"""The gate before any figure: run once per model, dtype, back end, codec, item, and remembered."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from data.inputs import Item
from models import gate
from models.atomic import writing
from models.errors import UserError
from models.kv.keys import described
from models.sealed import digest, parse
from stage.environment import code
from stage.session import Session

CODE = code()  # as it was imported: an edit during a long run is not what passed
ONE_CHUNK = "only one chunk: no item of these inputs has two, so the first check says little"


def checked(session: Session) -> dict[str, Any]:
    """The gate's outcome for this session's model, from the remembered one where it still holds.

    Raises
    ------
    UserError : the model fails its gate: no result of it would mean anything.
    """
    path = Path(session.config.outputs) / session.source.name / "gate.json"
    key = _key(session)
    known, damaged = remembered(path)
    outcome = next((entry["gate"] for entry in known if entry["key"] == key), None)
    if outcome is None:
        if damaged:
            print(f"eval: {path} is damaged or was edited: what it says is not believed")
        item = gate_item(session)
        print(
            f"eval: running the gate on item {item.id}, {_chunks(gate.filled(item.prompt))} "
            "(once per model, dtype, back end, codec and item)",
            flush=True,
        )
        outcome = run(session)
        with writing(path) as file:
            file.write(json.dumps([*known, _sealed(key, outcome)], indent=2).encode())
    if not outcome["passed"]:
        raise UserError(
            f"{session.source.name} fails its gate, so no result of it is reported; "
            f"remove {path} to try again, and see {session.config.command('gate')}"
        )
    return outcome


def gate_item(session: Session) -> Item:
    """The first item of the inputs that has at least two chunks, or the first of all."""
    items = session.inputs.items
    return next((item for item in items if gate.filled(item.prompt) > 1), items[0])


def run(session: Session) -> dict[str, Any]:
    """Run the gate on :func:`gate_item`; what comes is plain JSON.

    A distance is None where anything was NaN or infinite; ``note`` says what the gate leaves open.
    """
    item = gate_item(session)
    fronts = session.fronts[item.id]
    codec = None if session.config.layout == "item" else session.codec
    result = gate.run(session.engine, item.prompt, session.inputs.sink, fronts, codec)
    outcome: dict[str, Any] = json.loads(json.dumps(result.as_dict()))
    for check in outcome["checks"]:
        if not math.isfinite(check["distance"]):
            check["distance"] = None
    return {"item": item.id, "note": ONE_CHUNK if result.chunks < 2 else None, **outcome}


def table(outcome: dict[str, Any]) -> str:
    """The gate for people: each check with its distance in logits."""
    lines = [
        f"gate on item {outcome['item']}, {outcome['tokens']} tokens, "
        f"{_chunks(outcome['chunks'])}, tolerance {outcome['tolerance']:g} in logits"
    ]
    for check in outcome["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        distance = check["distance"]
        size = "NaN or infinite" if distance is None else f"{distance:.1e}"
        words = {True: ", same greedy tokens", False: ", other greedy tokens", None: ""}
        answers = words[check["tokens_equal"]]
        lines.append(f"  {verdict}  {check['name']:<38} distance {size}{answers}")
    return "\n".join([*lines, *([outcome["note"]] if outcome["note"] else [])])


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"


def _key(session: Session) -> dict[str, Any]:
    """Everything that the gate's outcome depends on."""
    item = gate_item(session)
    fronts = session.fronts[item.id]
    return {
        "weights": session.weights.known.fingerprint,
        "tokenizer": session.tokenizer_fingerprint,
        "dtype": str(session.weights.dtype),
        "backend": session.weights.backend,
        "fast": session.weights.fast,
        "item": item.id,
        "tokens": item.prompt.sha256(),
        "segments": [list(span) for span in item.prompt.segments],
        "sink": session.inputs.sink,
        "fronts": digest(fronts) if fronts else None,
        "codec": None if session.config.layout == "item" else described(session.codec),
        "code": CODE,
        **session.weights.machine,
    }


def _sealed(key: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    """An entry of ``gate.json``, which holds one a key."""
    return {"key": key, "gate": outcome, "sha256": _digest(key, outcome)}


def _digest(key: Any, outcome: Any) -> str:
    return hashlib.sha256(json.dumps([key, outcome], sort_keys=True).encode()).hexdigest()


def remembered(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Entries that are as they were written, and whether there was anything else."""
    try:
        entries = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [], False
    except (OSError, ValueError):
        return [], True
    if not isinstance(entries, list):
        return [], True
    good = [entry for entry in entries if _is_whole(entry)]
    return good, len(good) < len(entries)


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"key", "gate", "sha256"}:
        return False
    return bool(entry["sha256"] == _digest(entry["key"], entry["gate"]))
