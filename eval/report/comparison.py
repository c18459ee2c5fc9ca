"""Differences between runs for people, with what may be claimed of them."""

from __future__ import annotations

from typing import Any

from eval.analysis import compare
from eval.analysis.measures import Results, rates
from eval.analysis.significance import hopeless
from eval.analysis.stats import RESAMPLES
from stage.columns import columns

SIGNS = {"better": "B", "worse": "W", "not told apart": "~"}
COLUMNS = (
    ("random", "score", 1),
    ("random", "kl_mean", 3),
    ("no", "score", 1),
    ("best", "kl_mean", 3),
)
SHOWN = tuple((role, name) for role, name, _ in COLUMNS)
LEGEND = (
    "method - other, item by item, with its 95% interval ({resamples:,} paired bootstraps over {n} "
    "items). random: the control of\nthe same rate; no: the full prefill; best: the method whose "
    "mean KL is the smallest here, which flatters it a little.\nKL: nats along the full prefill's "
    "answer, less is better.\n"
    "p: how often a difference as large comes about if it does not matter which of the two an item "
    "got (permutation test:\nthe signs of the items' differences are flipped). It allows for the "
    "{family} comparisons behind this table (Holm), among\nthem every pair that could have become "
    "a comparison with the best. B (better) and W (worse) are claims, where p < 0.05;\n"
    "~ is not told apart{few}.{oracles}"
)
ORACLES = " * oracle: an upper bound, not a method."


def table(results: Results, seed: int) -> str:
    """One row per method and rate: differences, their intervals, and what may be claimed."""
    several = len(rates(results)) > 1
    rows, family = compare.differences(results, seed, SHOWN)
    cells = [
        [
            _name(row, several),
            *(
                cell
                for role, name, digits in COLUMNS
                for cell in _cells(row["to"].get(role, {}).get(name), digits)
            ),
        ]
        for row in rows
    ]
    names = {"score": "score", "kl_mean": "KL"}
    head = ["method"]
    for role, name, _ in COLUMNS:
        head += [f"{names[name]} - {role}", "p  "]
    n = len(results[0]["items"])
    legend = LEGEND.format(
        n=n,
        resamples=RESAMPLES,
        family=family,
        few=f": {n} items are too few for any claim" if hopeless(n, family) else "",
        oracles=ORACLES if any(result["oracle"] for result in results) else "",
    )
    lines = columns([head, *cells], ["<", *[">"] * (len(head) - 1)])
    return "\n".join([*lines, "", legend])


def show_p(p: float) -> str:
    """Three digits, or that it is less."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _name(row: dict[str, Any], several_rates: bool) -> str:
    """Method and rate; for a method without one, the rate that it is compared at."""
    name = row["method"] + "*" * row["oracle"]
    if row["rate"] is not None:
        return f"{name} {row['rate']:g}"
    return f"{name} (at {row['at']:g})" if several_rates and row["at"] is not None else name


def _cells(found: dict[str, Any] | None, digits: int) -> tuple[str, str]:
    """The difference with its interval, and its p with what may be claimed."""
    if found is None:
        return "-", "-  "
    # Adding 0.0 turns the -0.0 of a rounded small loss into 0.0.
    estimate, low, high = (round(x, digits) + 0.0 for x in (found["estimate"], *found["ci95"]))
    interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
    return (
        f"{estimate:+.{digits}f} {interval}",
        f"{show_p(found['p_holm'])} {SIGNS[found['verdict']]}",
    )
