"""What a sweep over methods and rates leaves: ``sweep.json``, one table, and alarms."""

from __future__ import annotations

from collections.abc import Sequence

from eval.analysis import compare, overlap
from eval.analysis.alarms import alarms
from eval.analysis.measures import Results, method, rates
from eval.analysis.stats import RESAMPLES
from eval.report import layout, overlaps
from eval.report.columns import POINTS
from eval.report.comparison import claims, few, verdict
from eval.report.figures import Report, report

SHOWN = (("random", "kl_mean"), ("random", "score"))
COLUMNS = (*POINTS, *(verdict(role, measure) for role, measure in SHOWN))
VERSUS = (
    "vs random: the control of the same rate, corrector and codec, on the same items; KL along the "
    "answer, less is better. better and worse are claims, where p < 0.05; ~: not told apart"
)


def content(
    results: Results,
    seed: int,
    load_ms: float | None = None,
    folders: Sequence[str] | None = None,
) -> Report:
    """What ``sweep.json`` holds; table, alarms and picture are made from it.

    Parameters
    ----------
    results : runs over the same items in the same order, each method and rate once.
    load_ms : median time to read one item's KVs from disk, which all methods share.
    folders : where each run's results are, in the order of ``results``.

    Returns
    -------
    ``figures.report`` with ``seed``, ``resamples``, ``methods``, ``rates``, ``comparisons`` (how
    many the corrected p allow for), ``differences`` (``compare.differences``), ``overlaps``
    (``overlap.matrices``) and ``alarms``.
    """
    found = report(results, load_ms, folders)
    compared = compare.differences(results, seed, SHOWN, rateless=False)
    return {
        **found,
        "seed": seed,
        "resamples": RESAMPLES,
        "methods": list(dict.fromkeys(map(method, results))),
        "rates": rates(results),
        "comparisons": compared.family,
        "differences": compared.rows,
        "overlaps": overlap.matrices(results),
        "alarms": alarms(results, seed),
    }


def text(sweep: Report) -> str:
    """All that a sweep prints at its end: the table, overlaps and alarms.

    Parameters
    ----------
    sweep : what ``content`` returned, or ``sweep.json`` read back.
    """
    lines = "\n".join(alarm["line"] for alarm in sweep["alarms"])
    return "\n\n".join(filter(None, [table(sweep), overlaps.table(sweep["overlaps"]), lines]))


def table(sweep: Report) -> str:
    """One row per method and rate, those with a rate beside the control of that rate."""
    to = {(d["method"], d["at"]): d["to"] for d in sweep["differences"]}
    rows = [{**row, "to": to.get((row["method"], row["rate"]), {})} for row in sweep["rows"]]
    n, family = sweep["n"], sweep["comparisons"]
    if not family:
        return layout.table(sweep, POINTS)
    note = f"{VERSUS}{few(n, family)}. {claims(family, 'of this table')}"
    return layout.table({**sweep, "rows": rows}, COLUMNS, note)
