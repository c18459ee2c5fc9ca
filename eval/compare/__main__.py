"""``kvfuse compare A B``: two runs item by item, with intervals and what may be claimed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.measures import MEASURES as RULES
from eval.analysis.measures import Measure
from eval.analysis.significance import holm, hopeless, p_values, verdict
from eval.analysis.stats import RESAMPLES, paired, per_item
from eval.compare.config import CompareConfig
from eval.compare.side import Side, read
from eval.report.comparison import show_p
from eval.report.layout import wrapped
from models.errors import UserError
from stage.columns import columns as aligned
from stage.options import command


class Shown(NamedTuple):
    """A measure as the table shows it: an item's figure, the head of its row, and its digits."""

    key: str
    title: str
    rule: Measure
    digits: int


MEASURES = (
    Shown("score", "score", RULES["score"], 1),
    Shown("kl_mean", "KL answer", RULES["kl_mean"], 3),
    Shown("kl_first", "KL first", RULES["kl_first"], 3),
    Shown("ttft_ms", "TTFT ms", RULES["ttft_ready_ms"], 1),
    Shown("ttft_cold_ms", "TTFT ms (cold)", RULES["ttft_ready_ms"], 1),
)
LEGEND = (
    "A - B item by item, with its 95% interval ({resamples:,} paired bootstraps over items); "
    "means, of times medians. p: permutation test (signs flipped; of times sign test), corrected "
    "for the {family} comparisons of this table (Holm). better and worse are said of A, where "
    "p < 0.05; ~: not told apart{few}."
)


def main(config: CompareConfig) -> None:
    """Print the comparison of both runs."""
    a, b = map(read, config.paths())
    print("\n".join(text(a, b, config.seed)))


def text(a: Side, b: Side, seed: int) -> Iterator[str]:
    """The lines that are printed.

    Raises
    ------
    UserError : there is no item, or no figure, that both have.
    """
    shared = [item for item in a.items if item in b.items]
    for letter, side in zip("AB", (a, b), strict=True):
        yield f"{letter}: {side.path} ({side.what}; {len(side.items)} items)"
        yield from (f"   {letter}: {remark}" for remark in side.remarks)
    if not shared:
        raise UserError(f"no item is in both: A has {_some(a)}, B has {_some(b)}")
    rows = compared(a, b, shared, seed)
    if not rows:
        raise UserError("no figure is known of both runs")
    alone = [len(side.items) - len(shared) for side in (a, b)]
    yield f"{len(shared)} items are in both, {alone[0]} only in A, {alone[1]} only in B"
    yield from (f"NOTE: {line}" for line in unlike(a, b))
    head = ["", "n", "A", "B", "A - B", "95% interval", "p", "A is"]
    yield ""
    yield from aligned([head, *map(_cells, rows)], "<>>>>>><")
    few = ""
    if hopeless(max(row["n"] for row in rows), len(rows)):
        few = f"; {len(shared)} items are too few for any claim"
    yield ""
    yield from wrapped(LEGEND.format(resamples=RESAMPLES, family=len(rows), few=few))


def compared(a: Side, b: Side, shared: list[str], seed: int) -> list[dict[str, Any]]:
    """One row per measure that both have, over the items where both have it.

    Returns
    -------
    dicts with ``measure``, ``n``, ``a``, ``b``, ``estimate``, ``ci95``, ``p``, ``p_holm`` and
    ``verdict`` (of A).
    """
    rows = []
    for measure in MEASURES:
        pairs = [
            (a.items[item].get(measure.key), b.items[item].get(measure.key)) for item in shared
        ]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if not known:
            continue
        ours, theirs = np.array(known, dtype=float).T
        gaps = per_item(ours, theirs, measure.rule.resolution)
        middle = np.mean if measure.rule.statistic == "mean" else np.median
        rows.append(
            {
                "measure": measure,
                "n": len(known),
                "a": float(middle(ours)),
                "b": float(middle(theirs)),
                **paired(gaps, seed, measure.rule.statistic),
                "p": float(p_values(gaps[None], measure.rule.statistic, seed)[0]),
            }
        )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        better = row["measure"].rule.higher_is_better
        row |= {"p_holm": p, "verdict": verdict(p, row["estimate"], better)}
    return rows


def unlike(a: Side, b: Side) -> Iterator[str]:
    """What both should have in common and have not."""
    if a.metric != b.metric and a.metric and b.metric:
        yield f"the scores are of other metrics: {a.metric} and {b.metric}"
    for what in a.same.keys() & b.same.keys():
        if a.same[what] != b.same[what]:
            yield UNLIKE.get(what, f"{what} is not the same: {a.same[what]} and {b.same[what]}")
    if a.same.keys().isdisjoint(b.same):
        yield "runs of two tools: items of one id need not be the same prompts"


UNLIKE = {
    "inputs": "the inputs are not the same: items of one id need not be the same prompts",
    "entry": "answers are asked for or scored in other ways: their scores do not compare",
    "weights": "the models are not the same: each KL is to the run's own full prefill",
    "code": "the engine's code is not the same: a difference may be its",
    "machine": "the runs are from other machines, threads or libraries: their times do not compare",
    "LMCache's run_fingerprint": "run_fingerprint is not the same: the prompts were made from "
    "something else, and a difference may be theirs",
}


def _cells(row: dict[str, Any]) -> list[str]:
    measure, digits = row["measure"], row["measure"].digits
    # Adding 0.0 turns the -0.0 of a rounded small loss into 0.0.
    middle, low, high = (round(x, digits) + 0.0 for x in (row["estimate"], *row["ci95"]))
    word = "~" if row["verdict"] == "not told apart" else row["verdict"]
    return [
        measure.title,
        str(row["n"]),
        f"{row['a']:.{digits}f}",
        f"{row['b']:.{digits}f}",
        f"{middle:+.{digits}f}",
        f"[{low:.{digits}f}, {high:.{digits}f}]",
        show_p(row["p_holm"]),
        word,
    ]


def _some(side: Side) -> str:
    names = list(side.items)[:2]
    return f"{', '.join(names)}{' ...' if len(side.items) > 2 else ''}"


if __name__ == "__main__":
    sys.exit(command("compare", CompareConfig, main))
