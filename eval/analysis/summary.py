"""From items to one summary per run: the keys that scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.datasets import Dataset
from eval.analysis.finite import require_finite
from eval.analysis.stats import bootstrap, middle, ratio, spread
from models.timing import PARTS

ANSWERED = 50.0  # score of the full prefill from which on it counts as an answer
MEANS = ("kl_first", "kl_mean", "top1_agreement")
NOTHING: dict[str, Any] = {"estimate": None, "ci95": None}


def summarize(records: Sequence[dict[str, Any]], dataset: Dataset, seed: int) -> dict[str, Any]:
    """Summary of one run's records, with 95% bootstrap intervals over items.

    Scores are those of the ``scored`` items, which have answers; None where there are none.
    ``answered`` of them the full prefill answers (``ANSWERED``), and ``retention_answered`` is over
    these; ``decisions`` items decide something, and ``decision_agreement`` is over those.

    Times are in milliseconds, scores out of 100; a time that was not measured, and everything that
    follows from it, is None. ``ttft_parts_ms`` are those of the item whose cold TTFT is the median
    (of the middle two, their mean), so that they sum to that median; ``ttft_parts_ready_ms``
    likewise. Speed-ups are ratios of medians.

    Raises
    ------
    NotFinite : a record that holds NaN or an infinity; its item is named.
    """
    for record in records:
        require_finite(record, f"item {record['id']}")

    def column(*keys: str) -> list[Any]:
        values = []
        for record in records:
            value: Any = record
            for key in keys:
                value = value[key]
            values.append(value)
        return values

    def parts(name: str, times: list[float]) -> dict[str, float] | None:
        if not _known(times):
            return None
        chosen = middle(times)
        return {p: float(np.mean([records[i][name][p] for i in chosen])) for p in PARTS}

    full = column("full_prefill_ms")
    times = {when: column("ttft_ms", when) for when in ("cold", "ready")}
    tpot = [value for value in column("tpot_ms") if value is not None]
    ready_parts = [part for part in column("ttft_parts_ready_ms") if part is not None]
    scored = [r for r in records if r["score"] is not None and r["full_score"] is not None]
    score, full_score = ([record[key] for record in scored] for key in ("score", "full_score"))
    retention = ratio(score, full_score, seed) if scored else NOTHING
    answers = [(s, f) for s, f in zip(score, full_score, strict=True) if f >= ANSWERED]
    answered = NOTHING
    if answers:
        answered = ratio([ours for ours, _ in answers], [full for _, full in answers], seed)
    known = [r.get("same_decision") for r in records]  # records of earlier versions lack it
    decided = [float(same) for same in known if same is not None]
    summary = {
        "n": len(records),
        "metric": dataset.metric,
        "suite": dataset.suite,
        "group": dataset.group,
        "scored": len(scored),
        "score": _mean(score),
        "extra_scores": {
            name: _mean([r["extra_scores"][name] for r in scored]) for name in dataset.extra_metrics
        },
        "score_by_length": by_length(records) if dataset.suite == "longbench-e" else None,
        "score_ci95": list(bootstrap(score, seed)) if scored else None,
        "full_score": _mean(full_score),
        "retention": retention["estimate"],
        "retention_ci95": retention["ci95"],
        "answered": len(answers),
        "retention_answered": answered["estimate"],
        "retention_answered_ci95": answered["ci95"],
        "decisions": len(decided),
        "decision_agreement": _mean(decided),
        "decision_agreement_ci95": list(bootstrap(decided, seed)) if decided else None,
        "delta_kv": _by_layer(column("delta_kv")),
        "delta_attn": _by_layer(column("delta_attn")),
        "ttft_ms": {when: spread(t, seed) if _known(t) else None for when, t in times.items()},
        "ttft_parts_ms": parts("ttft_parts_ms", times["cold"]),
        "ttft_parts_ready_ms": parts("ttft_parts_ready_ms", times["ready"]),
        "select_ms": _median([part["select"] for part in ready_parts]),
        "correct_ms": _median([part["correct"] for part in ready_parts]),
        "load_ms": _median(column("load_ms")),
        "reading": reading(records),
        "stored_bytes_per_token": _per_token(records),
        "answers_kept": sum(record["answer_kept"] for record in records),
        "full_prefill_ms": spread(full, seed),
        "speedup": {
            when: float(np.median(full) / np.median(t)) if _known(t) else None
            for when, t in times.items()
        },
        "flop_limit": _median(column("flop_limit")),
        "tpot_ms": {"median": _median(tpot)},
        "tpot_parts_ms": tpot_parts(column("tpot_parts_ms"), column("tpot_ms")),
        "evict_ms": _median(column("evict_ms")),
        "kv_bytes": {
            "median": float(np.median(column("kv_bytes"))),
            "max": max(column("kv_bytes")),
        },
        "tokens": {"median": float(np.median(column("tokens"))), "max": max(column("tokens"))},
    }
    for name in MEANS:
        summary[name] = float(np.mean(column(name)))
        summary[f"{name}_ci95"] = list(bootstrap(column(name), seed))
    return summary


def tpot_parts(
    parts: Sequence[dict[str, float] | None], tpot: Sequence[float | None]
) -> dict[str, float] | None:
    """Parts of the TPOT of the item whose TPOT is the median (of the middle two, their mean)."""
    known = [(part, total) for part, total in zip(parts, tpot, strict=True) if part and total]
    if not known:
        return None
    chosen = middle([total for _, total in known])
    return {name: float(np.mean([known[i][0][name] for i in chosen])) for name in known[0][0]}


def reading(records: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Medians of what cold readings took, see :class:`models.kv.overlap.Reading`."""
    found = [record["reading"] for record in records if record.get("reading")]
    if not found:
        return None
    known = {name: [each[name] for each in found if each[name] is not None] for name in found[0]}
    return {name: float(np.median(values)) for name, values in known.items() if values}


def _per_token(records: Sequence[dict[str, Any]]) -> float | None:
    """Bytes on disk of a token's KVs; records of earlier versions do not tell them."""
    sizes = [record.get("stored_bytes") for record in records]
    known = [size for size in sizes if size is not None]
    return sum(known) / sum(r["tokens"] for r in records) if len(known) == len(records) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _known(values: Sequence[float | None]) -> bool:
    return bool(values) and None not in values


def _median(values: Sequence[float | None]) -> float | None:
    return float(np.median(np.asarray(values, dtype=float))) if _known(values) else None


def _by_layer(rows: Sequence[list[float] | None]) -> list[float] | None:
    """Mean over items, layer by layer."""
    known = [row for row in rows if row is not None]
    return np.mean(known, axis=0).tolist() if len(known) == len(rows) else None


def by_length(records: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """LongBench-E's breakdown: mean score of items of up to 4k, 8k and more words."""
    bands: dict[str, list[float]] = {"0-4k": [], "4-8k": [], "8k+": []}
    for record in records:
        words = record["length"]
        require_finite(record["score"], "score by length")
        bands["0-4k" if words < 4000 else "4-8k" if words < 8000 else "8k+"].append(record["score"])
    return {name: float(np.mean(scores)) if scores else None for name, scores in bands.items()}
