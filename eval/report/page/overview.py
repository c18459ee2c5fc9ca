"""The page's first table: a row for every run, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from eval.report import columns
from eval.report.columns import Column, show
from eval.report.figures import Row, report

Details = list[tuple[str, list[tuple[str, str]]]]


class Shown(NamedTuple):
    """A column of the page: a table's column with the figure that it is sorted by.

    Attributes
    ----------
    key : the figure's name; ``value`` reads it from a row.
    more : small text behind the figure.
    """

    key: str
    column: Column
    value: Callable[[Row], str | float | None]
    more: Callable[[Row], str] = lambda row: ""


def _share(row: Row) -> float | None:
    speedup, limit = row["speedup_ready"], row["flop_limit"]
    return None if speedup is None or limit is None else 100 * speedup / limit


def _ends(row: Row) -> str:
    low, high = row["score_ci95"] or (None, None)
    return "" if low is None else f"{low:.1f} – {high:.1f}"


def _kl_ends(row: Row) -> str:
    low, high = row["kl_mean_ci95"]
    return f"{low:.3f} – {high:.3f}"


LIMIT_SHARE = Column(
    "% of limit",
    ">",
    lambda row: show(_share(row), 0),
    "% of limit: the speed-up (KVs in memory) as a share of what arithmetic alone would allow",
)
TABLE = (
    Shown(
        "dataset", Column("dataset", "<", lambda row: row["dataset"]), lambda row: row["dataset"]
    ),
    Shown("method", columns.METHOD, lambda row: row["method"]),
    Shown("context", columns.CONTEXT, lambda row: row["context"] or ""),
    Shown("codec", columns.CODEC, lambda row: row["codec"] or ""),
    Shown("rate", columns.RATE, lambda row: row["rate"]),
    Shown("score", columns.SCORE, lambda row: row["score"], _ends),
    Shown("kl_mean", columns.KL_ANSWER, lambda row: row["kl_mean"], _kl_ends),
    Shown("top1_agreement", columns.AGREE, lambda row: row["top1_agreement"]),
    Shown("speedup_ready", columns.SPEEDUP, lambda row: row["speedup_ready"]),
    Shown(
        "speedup_cold",
        columns.SPEEDUP_COLD._replace(name="cold"),
        lambda row: row["speedup_cold"],
    ),
    Shown("limit_share", LIMIT_SHARE, _share),
    Shown(
        "ttft_ready_ms",
        columns.TTFT,
        lambda row: row["ttft_ready_ms"] and row["ttft_ready_ms"]["median"],
    ),
    Shown("n", Column("items", ">", lambda row: str(row["n"])), lambda row: row["n"]),
    Shown("model", Column("model", "<", lambda row: row["model"]), lambda row: row["model"]),
)


def run(result: dict[str, Any], name: str, gates: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """One row: its cells, its marks and its details.

    Parameters
    ----------
    name : the page's name of the run. gates : as ``Found`` holds them.
    """
    row = {
        **report([result])["rows"][0],
        **{key: result["config"][key] for key in ("model", "dataset")},
        "n": result["n"],
    }
    cells = [
        {
            "key": shown.key,
            "text": shown.column.cell(row),
            "value": shown.value(row),
            "more": shown.more(row),
            "side": shown.column.side,
        }
        for shown in TABLE
    ]
    return {
        "id": name,
        "folder": result["folder"],
        "cells": cells,
        "marks": marks(result, gates),
        "details": details(result),
        **{key: row[key] for key in ("model", "dataset", "method", "rate", "oracle")},
    }


def marks(
    result: dict[str, Any], gates: Sequence[dict[str, Any]] = ()
) -> list[tuple[str, str, str]]:
    """What must not be overlooked of a run: how grave, a word, and what it means."""
    found = []
    if result["note"]:
        found.append(("bad", "built-in sample", result["note"]))
    others = _failed(result, gates)
    if others or not result["gate"].get("passed"):
        items = f" on {', '.join(others)}" if others else ""
        why = f"the model fails its gate{items}: no figure of it means anything"
        found.append(("bad", "gate failed", why))
    elif result["gate"].get("note"):
        found.append(("warn", "gate: one chunk", result["gate"]["note"]))
    if False in [item["page_cache_dropped"] for item in result["items"]]:
        cold = "the system did not drop the KVs from memory: cold is not cold here"
        found.append(("warn", "not cold", cold))
    if len(result["revisions"]) > 1:
        found.append(("warn", "revisions", f"made by several: {', '.join(result['revisions'])}"))
    if result["oracle"]:
        found.append(("plain", "oracle", "an upper bound that has seen the full prefill"))
    return found


def _failed(result: dict[str, Any], gates: Sequence[dict[str, Any]]) -> list[str]:
    """Items on which what a run was made with has failed its gate.

    A result does not name the engine's code. Its own gate does where that is still remembered, and
    of other codes nothing is held against the run.
    """
    own = {gate["key"]["code"] for gate in gates if gate["gate"] == result["gate"]}
    return [
        gate["gate"]["item"]
        for gate in gates
        if not gate["gate"]["passed"]
        and _alike(result["config"], gate["key"])
        and (not own or gate["key"]["code"] in own)
    ]


def _alike(config: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a gate was run with what a run was made with."""
    ours = [config["weights"], f"torch.{config['dtype']}", config["backend"]]
    ours += [config.get("fast", []), _coded(config.get("codec_is"))]
    theirs = [key["weights"], key["dtype"], key["backend"]]
    return ours == [*theirs, key.get("fast", []), _coded(key.get("codec"))]


def _coded(codec: dict[str, Any] | None) -> dict[str, Any] | None:
    """A codec as a run or a gate describes it; None where KVs lie as they are, in either layout."""
    return None if codec is None or codec["name"] == "none" else codec


def details(result: dict[str, Any]) -> Details:
    """Configuration, environment, gate and inputs of a run, as pairs of texts."""
    gate = result["gate"]
    checks = [(check["name"], _gate(check)) for check in gate.get("checks", [])]
    inputs = {key: value for key, value in result["inputs"].items() if key != "recipe"}
    sections = {
        "Configuration": {**result["config"], "folder": result["folder"]},
        "Environment": {**result["environment"], "revisions": result["revisions"]},
        "Inputs": inputs,
        "Memory (MB)": result["memory_mb"],
    }
    shown = [(title, _pairs(values)) for title, values in sections.items()]
    shown.insert(2, ("Gate", [("passed", str(gate.get("passed"))), *checks]))
    return shown


def _gate(check: dict[str, Any]) -> str:
    distance = check["distance"]
    size = "NaN or infinite" if distance is None else f"{distance:.1e}"
    return f"{'pass' if check.get('passed', True) else 'FAIL'}, distance {size}"


def _pairs(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Names and values as texts, nested ones under a name with dots."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += _pairs(value, f"{before}{key}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            found.append((f"{before}{key}", text))
    return found
