"""The one model of a report: what its runs have in common, and a row of figures for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.analysis.finite import require_finite
from eval.analysis.measures import Results, method, rate

# Everything that runs of one report may differ in.
OWN = (
    "method",
    "options",
    "method_code",
    "corrector",
    "corrector_options",
    "corrector_code",
    "context",
    "fronts",
    "codec",
    "codec_is",
    "codec_code",
    "drop",
    "drop_options",
    "drop_code",
)
SCORED = ("score", "retention", "kl_first", "kl_mean", "top1_agreement")
# Results of earlier versions lack these.
SOME = ("retention_answered", "decision_agreement")
Report = dict[str, Any]
Row = dict[str, Any]


def report(
    results: Results, load_ms: float | None = None, folders: Sequence[str | None] | None = None
) -> Report:
    """What every table, and ``sweep.json``, is made from.

    Parameters
    ----------
    results : runs over the same items, as ``result.json`` holds them.
    load_ms : median time to read one item's KVs from disk, where all runs share it.
    folders : where each run's results are, in the order of ``results``.

    Returns
    -------
    dict with ``note``, ``environment``, ``config`` (what all runs have in common), ``n``,
    ``available`` (items of the dataset), ``suite``, ``group``, ``metric``, ``full_score``,
    ``tokens``, ``full_prefill_ms``, ``load_ms``, ``answers_kept`` (the full prefill's that an
    earlier run decoded) and ``rows``, one per run. Times in ms, scores out of 100, KL in nats; what
    an oracle may not claim is None.

    Raises
    ------
    NotFinite : a figure that is NaN or infinite.
    """
    first = results[0]
    common = {
        key: value
        for key, value in first["config"].items()
        if key not in OWN and all(r["config"].get(key) == value for r in results)
    }
    paths = folders or [None] * len(results)
    found = {
        "note": first["note"],
        "environment": first["environment"],
        "config": common,
        "n": first["n"],
        "available": first["inputs"]["available"],
        "suite": first["suite"],
        "group": first["group"],
        "metric": first["metric"],
        "full_score": first["full_score"],
        "tokens": first["tokens"],
        "full_prefill_ms": first["full_prefill_ms"],
        "load_ms": load_ms,
        "answers_kept": first.get("answers_kept", 0),  # results of earlier versions lack it
        "rows": [_row(result, path) for result, path in zip(results, paths, strict=True)],
    }
    require_finite({key: value for key, value in found.items() if key != "rows"}, "report")
    return found


def name(row: Row) -> str:
    """Method and rate, as tables and titles name a run."""
    return row["method"] + ("" if row["rate"] is None else f" {row['rate']:g}")


def _row(result: dict[str, Any], folder: str | None) -> Row:
    """One run's figures; times only where the method may claim them."""
    timed = not result["oracle"]
    times = result["ttft_ms"] if timed else {"cold": None, "ready": None}
    row = {
        "method": method(result),
        "rate": rate(result),
        "options": result["config"]["options"],
        "oracle": result["oracle"],
        "context": result["config"].get("context"),
        "codec": result["config"].get("codec"),
        "stored_bytes_per_token": result.get("stored_bytes_per_token"),
        "load_ms": result.get("load_ms"),
        **{key: result[key] for figure in SCORED for key in (figure, f"{figure}_ci95")},
        **{key: result.get(key) for figure in SOME for key in (figure, f"{figure}_ci95")},
        "score_by_length": result["score_by_length"],
        **{
            f"ttft_{when}_ms": found and {"median": found["median"], "ci95": found["ci95"]}
            for when, found in times.items()
        },
        **{
            f"speedup_{when}": value if timed else None for when, value in result["speedup"].items()
        },
        "select_ms": result["select_ms"] if timed else None,
        "correct_ms": result.get("correct_ms") if timed else None,
        "drop": result["config"].get("drop", "none"),  # results of earlier versions lack it
        "tpot_ms": result["tpot_ms"]["median"] if timed and "tpot_ms" in result else None,
        "evict_ms": result.get("evict_ms") if timed else None,
        "kv_bytes": (result.get("kv_bytes") or {"median": None})["median"],
        "flop_limit": result["flop_limit"] if timed else None,
        "delta_kv": result["delta_kv"],
        "delta_attn": result["delta_attn"],
        "folder": folder,
    }
    require_finite(row, name(row))
    return row
