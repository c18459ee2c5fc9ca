"""From scores of passages to a row a policy and kept share, and the table of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median
from typing import Any

from eval.analysis.stats import ratio
from eval.ppl.compress import Times
from eval.ppl.score import Score
from stage.columns import columns

HEAD = (
    "policy", "keep", "rows", "ppl", "95% CI", "nats over none", "95% CI", "exact",
    "KV MB", "TTFT", "of it evict", "TPOT", "tok/s",
)  # fmt: skip


def summarise(
    policy: str,
    keep: float,
    scores: Sequence[Score],
    whole: Sequence[Score],
    times: Sequence[Times],
    seed: int,
) -> dict[str, Any]:
    """One row: token-weighted, its intervals over passages, in nats against nothing evicted.

    Parameters
    ----------
    whole : the same passages with nothing evicted.
    """
    tokens = [score.tokens for score in scores]
    loss = ratio([score.nll for score in scores], tokens, seed)
    more = [score.nll - full.nll for score, full in zip(scores, whole, strict=True)]
    above = ratio(more, tokens, seed)
    return {
        "policy": policy,
        "keep": keep,
        "kept": _mean([score.kept for score in scores]),
        "ppl": math.exp(loss["estimate"]),  # type: ignore[arg-type]
        "ppl_ci95": [math.exp(end) for end in loss["ci95"]],  # type: ignore[union-attr,arg-type]
        "nats": above["estimate"],
        "nats_ci95": above["ci95"],
        "exact": 100 * _mean([float(score.exact) for score in scores]),
        "kv_bytes": _mean([float(score.kv_bytes) for score in scores]),
        "passages": len(scores),
        "tokens": sum(tokens),
        **{name: median(asdict(one)[name] for one in times) for name in _names(times)},
    }


def table(rows: Sequence[dict[str, Any]], task: str) -> str:
    """The rows for people; ``exact`` stands there where an answer is asked for."""
    cells = [HEAD, *map(_cells, rows)]
    hidden = {"exact"} if task == "text" else set()
    hidden |= set() if "ttft_ms" in rows[0] else {"TTFT", "of it evict", "TPOT", "tok/s"}
    shown = [place for place, name in enumerate(HEAD) if name not in hidden]
    picked = [[row[place] for place in shown] for row in cells]
    return "\n".join(columns(picked, ["<", *">" * (len(shown) - 1)]))


def rises(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where less kept did better by more than the intervals allow: a line each.

    Neighbouring shares of one policy are compared; their intervals are those against nothing
    evicted, so what makes a passage hard for both is out of them.
    """
    found = []
    for more, less in pairwise(rows):
        if more["policy"] == less["policy"] and less["nats_ci95"][1] < more["nats_ci95"][0]:
            found.append(
                f"{less['policy']}: {less['keep']:g} kept is better than {more['keep']:g} by more "
                "than the intervals allow"
            )
    return found


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ppl_ci95"]
    below, above = row["nats_ci95"]
    times = ("",) * 4
    if "ttft_ms" in row:
        times = (
            f"{row['ttft_ms']:,.0f} ms", f"{row['evict_ms']:,.0f} ms",
            f"{row['tpot_ms']:.1f} ms", f"{row['tokens_per_s']:.1f}",
        )  # fmt: skip
    return (
        row["policy"], f"{row['keep']:g}", f"{row['kept']:.3f}", f"{row['ppl']:.3f}",
        f"{low:.2f}–{high:.2f}", f"{row['nats']:+.4f}", f"{below:+.3f}–{above:+.3f}",
        f"{row['exact']:.0f}", f"{row['kv_bytes'] / 1e6:.2f}", *times,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _names(times: Sequence[Times]) -> list[str]:
    return list(asdict(times[0])) if times else []
