"""The study's tables: the primary comparisons, and where each method stands."""

from __future__ import annotations

from typing import Any

from eval.analysis.measures import Results, method, rate
from eval.report.columns import show
from eval.study.measured import Times, key
from stage.columns import columns as aligned

LEGEND = (
    "ratio: mean KL along the answer, ours / theirs, with its 95% interval (10,000 paired "
    "bootstraps over items);\np (Holm): paired permutation test of the difference, corrected for "
    "all lines; wanted: the ratio that was asked for before the run."
)


def primary(claims: list[dict[str, Any]]) -> str:
    """The primary comparisons, a line each."""
    head = [
        "model", "items", "ours at", "against", "KL ours", "theirs", "ratio", "95%", "p (Holm)",
        "wanted", "met",
    ]  # fmt: skip
    rows = [
        [
            row["model"],
            str(row["n"]),
            f"{row['rate']:g}",
            f"{row['other']} {row['other_rate']:g}",
            show(row["ours"], 4),
            show(row["theirs"], 4),
            show(row["ratio"], 2),
            " to ".join(show(end, 2) for end in row["ratio_ci95"] or (None, None)),
            f"{row['p_holm']:.2g}",
            f"<= {row['share']:.2f}",
            "yes" if row["met"] else "no",
        ]
        for row in claims
    ]
    return "\n".join([*aligned([head, *rows], "<><<>>>>>>>"), "", LEGEND])


def standing(model: str, results: Results, times: Times) -> str:
    """Every run of one model, nearest to the full prefill first."""
    head = [model, "behind", "rate", "KL", "95%", "agree %", "score", "of full %", "TTFT %"]
    rows = []
    for result in sorted(results, key=lambda result: result["kl_mean"]):
        if result["config"]["context"] is None:
            continue
        low, high = result["kl_mean_ci95"]
        rows.append(
            [
                method(result),
                str(result["config"]["context"]),
                "" if rate(result) is None else f"{rate(result):g}",
                show(result["kl_mean"], 4),
                f"{low:.4f} to {high:.4f}",
                show(100 * result["top1_agreement"], 1),
                show(result["score"], 1),
                show(None if result["retention"] is None else 100 * result["retention"], 1),
                show(times.get(key(result)), 1),
            ]
        )
    return "\n".join(aligned([head, *rows], "<<>>>>>>>"))
