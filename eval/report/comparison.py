"""Differences between runs for people, with what may be claimed of them."""

from __future__ import annotations

from typing import Any

from eval.analysis import compare
from eval.analysis.measures import Results, rates
from eval.analysis.significance import hopeless
from eval.analysis.stats import RESAMPLES
from eval.report.columns import Column
from eval.report.figures import Row, name
from eval.report.layout import lay_out, legend

SIGNS = {"better": "B", "worse": "W", "not told apart": "~"}
WORDS = {"score": "score", "kl_mean": "KL"}
SHOWN = (("random", "score"), ("random", "kl_mean"), ("no", "score"), ("best", "kl_mean"))
DIGITS = {"score": 1, "kl_mean": 3}
DIFFERENCES = (
    "method - other, item by item, with its 95% interval ({resamples:,} paired bootstraps over {n} "
    "items). random: the control of the same rate, corrector and codec; no: the full prefill; "
    "best: the method whose mean KL is the smallest here, which flatters it a little. KL: nats "
    "along the full prefill's answer, less is better."
)
CLAIMS = (
    "p: how often a difference as large comes about if it does not matter which of the two an item "
    "got (permutation test: the signs of the items' differences are flipped), corrected for the "
    "{family} comparisons {behind} (Holm)."
)


def table(results: Results, seed: int) -> str:
    """One row per method and rate: differences, their intervals, and what may be claimed."""
    rows, family = compare.differences(results, seed, SHOWN)
    several = len(rates(results)) > 1
    columns = [Column("method", "<", lambda row: _name(row, several))]
    for role, measure in SHOWN:
        columns += _beside(role, measure)
    n = len(results[0]["items"])
    first = DIFFERENCES.format(resamples=RESAMPLES, n=n)
    behind = "behind this table, among them every pair that could have been one with the best"
    signs = "B (better) and W (worse) are claims, where p < 0.05; ~: not told apart"
    notes = legend(columns, rows, first, f"{claims(family, behind)} {signs}{few(n, family)}.")
    return "\n".join([*lay_out(rows, columns), "", *notes])


def claims(family: int, behind: str) -> str:
    """What p means in a table of so many comparisons."""
    return CLAIMS.format(family=family, behind=behind)


def few(n: int, family: int) -> str:
    """A warning where no outcome could be a claim."""
    return f"; {n} items are too few for any claim" if hopeless(n, family) else ""


def show_p(p: float) -> str:
    """Three digits, or that it is less."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict(role: str, measure: str) -> Column:
    """What may be claimed of a run beside another, in one word with its p."""

    def cell(row: Row) -> str:
        found = row["to"].get(role, {}).get(measure)
        if found is None:
            return ""
        word = "~" if found["verdict"] == "not told apart" else found["verdict"]
        return f"{word} {show_p(found['p_holm'])}"

    return Column(f"{WORDS[measure]} vs {role}", "<", cell)


def _beside(role: str, measure: str) -> list[Column]:
    """A difference with its interval, and its p with what may be claimed."""

    def found(row: Row) -> dict[str, Any] | None:
        return row["to"].get(role, {}).get(measure)

    def estimate(row: Row) -> str:
        difference, digits = found(row), DIGITS[measure]
        if difference is None:
            return "-"
        # Adding 0.0 turns the -0.0 of a rounded small loss into 0.0.
        middle, low, high = (
            round(x, digits) + 0.0 for x in (difference["estimate"], *difference["ci95"])
        )
        return f"{middle:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    def p(row: Row) -> str:
        difference = found(row)
        if difference is None:
            return "-  "
        return f"{show_p(difference['p_holm'])} {SIGNS[difference['verdict']]}"

    return [Column(f"{WORDS[measure]} - {role}", ">", estimate), Column("p  ", ">", p)]


def _name(row: Row, several_rates: bool) -> str:
    """Method and rate; for a method without one, the rate that it is compared at."""
    at = several_rates and row["rate"] is None and row["at"] is not None
    return name(row) + "*" * row["oracle"] + (f" (at {row['at']:g})" if at else "")
