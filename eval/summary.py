"""From items to one summary per run: the keys that scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.datasets import Dataset
from eval.stats import bootstrap, middle, spread
from models.timing import PARTS


def summarize(records: Sequence[dict[str, Any]], dataset: Dataset, seed: int) -> dict[str, Any]:
    """Summary of one run's records, with 95% bootstrap intervals over items.

    Times are in milliseconds, scores out of 100. ``ttft_parts_ms`` are those of the item whose cold
    TTFT is the median (of the middle two, their mean), so that they sum to that median;
    ``ttft_parts_ready_ms`` likewise. Speed-ups are ratios of medians.
    """

    def column(*keys: str) -> list[float]:
        values = []
        for record in records:
            value: Any = record
            for key in keys:
                value = value[key]
            values.append(value)
        return values

    def parts(name: str, times: list[float]) -> dict[str, float]:
        chosen = middle(times)
        return {p: float(np.mean([records[i][name][p] for i in chosen])) for p in PARTS}

    full, cold, ready = (
        column("full_prefill_ms"),
        column("ttft_ms", "cold"),
        column("ttft_ms", "ready"),
    )
    tpot = [value for value in column("tpot_ms") if value is not None]
    score, full_score = float(np.mean(column("score"))), float(np.mean(column("full_score")))
    median = {
        name: float(np.median(v)) for name, v in (("full", full), ("cold", cold), ("ready", ready))
    }
    return {
        "n": len(records),
        "metric": dataset.metric,
        "suite": dataset.suite,
        "group": dataset.group,
        "score": score,
        "extra_scores": {
            name: float(np.mean(column("extra_scores", name))) for name in dataset.extra_metrics
        },
        "score_by_length": by_length(records) if dataset.suite == "longbench-e" else None,
        "score_ci95": list(bootstrap(column("score"), seed)),
        "full_score": full_score,
        "retention": score / full_score if full_score else None,
        "kl_first": float(np.mean(column("kl_first"))),
        "kl_first_ci95": list(bootstrap(column("kl_first"), seed)),
        "top1_agreement": float(np.mean(column("top1_agreement"))),
        "top1_agreement_ci95": list(bootstrap(column("top1_agreement"), seed)),
        "ttft_ms": {"cold": spread(cold, seed), "ready": spread(ready, seed)},
        "ttft_parts_ms": parts("ttft_parts_ms", cold),
        "ttft_parts_ready_ms": parts("ttft_parts_ready_ms", ready),
        "full_prefill_ms": spread(full, seed),
        "speedup": {
            "cold": median["full"] / median["cold"],
            "ready": median["full"] / median["ready"],
        },
        "flop_limit": float(np.median(column("flop_limit"))),
        "tpot_ms": {"median": float(np.median(tpot)) if tpot else None},
        "tokens": {"median": float(np.median(column("tokens"))), "max": max(column("tokens"))},
    }


def by_length(records: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """LongBench-E's breakdown: mean score of items of up to 4k, 8k and more words."""
    bands: dict[str, list[float]] = {"0-4k": [], "4-8k": [], "8k+": []}
    for record in records:
        words = record["length"]
        bands["0-4k" if words < 4000 else "4-8k" if words < 8000 else "8k+"].append(record["score"])
    return {name: float(np.mean(scores)) if scores else None for name, scores in bands.items()}
