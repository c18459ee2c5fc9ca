"""From items to one summary per run: the keys that scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.stats import bootstrap, middle, spread
from models.timing import PARTS


def summarize(records: Sequence[dict[str, Any]], metric: str, seed: int) -> dict[str, Any]:
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
        "metric": metric,
        "score": score,
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
