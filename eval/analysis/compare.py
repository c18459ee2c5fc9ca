"""Each method against the full prefill, the random control and the best, item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.stats import FEWEST, RESAMPLES, paired, verdict
from stage.columns import columns

# Float32 logits carry this much of a divergence by rounding alone: r = 1 reaches it, never 0.
ROUNDING = 1e-6
SIGNS = {"better": "B", "worse": "W", "not told apart": "~"}
LEGEND = (
    "method - other, on the same items; random: the control of the same rate; no: the full "
    "prefill; best: the method whose\nmean is best here (the interval does not allow for that "
    "choice). KL: nats along the full prefill's answer, less is better.\n"
    f"[95% paired bootstrap over {{n}} items, {RESAMPLES:,} resamples], not corrected for multiple "
    "comparisons. Only B (better)\nand W (worse) are claims; ~ is not told apart{few}.{oracles}"
)
ORACLES = " * oracle: an upper bound, not a method."
COLUMNS = (
    ("random", "score", 1),
    ("random", "kl_mean", 3),
    ("no", "score", 1),
    ("best", "kl_mean", 3),
)
Results = Sequence[dict[str, Any]]


class Measure(NamedTuple):
    """What of a record is compared, and how.

    ``full`` is the full prefill's value: in a record of any method, since both saw the item.
    """

    value: Callable[[dict[str, Any]], float | None]
    full: Callable[[dict[str, Any]], float | None]
    statistic: str = "mean"
    higher_is_better: bool = False
    resolution: float = 0.0


MEASURES = {
    "score": Measure(
        lambda item: item["score"], lambda item: item["full_score"], higher_is_better=True
    ),
    "kl_first": Measure(lambda item: item["kl_first"], lambda item: 0.0, resolution=ROUNDING),
    "kl_mean": Measure(lambda item: item["kl_mean"], lambda item: 0.0, resolution=ROUNDING),
    "ttft_ready_ms": Measure(
        lambda item: item["ttft_ms"]["ready"], lambda item: item["full_prefill_ms"], "median"
    ),
}


def method(result: dict[str, Any]) -> str:
    """The method's full name, options included (``debug:check=cached``)."""
    return str(result["config"]["method"])


def rate(result: dict[str, Any]) -> float | None:
    """Recompute ratio of a run; None for methods that have none (``no``, ``full``, ``cat``)."""
    return result["config"]["options"].get("rate")


def rates(results: Results) -> list[float]:
    """The rates that occur, rising."""
    return sorted({found for found in map(rate, results) if found is not None})


def at(results: Results, wanted: float | None) -> list[dict[str, Any]]:
    """Runs of one rate, in order, and those of the methods that have none."""
    return [result for result in results if rate(result) in (None, wanted)]


def column(result: dict[str, Any], measure: Measure, full: bool = False) -> list[float] | None:
    """One value per item; None where an item has none, as oracles have no times."""
    values = [(measure.full if full else measure.value)(item) for item in result["items"]]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def differences(results: Results, seed: int) -> list[dict[str, Any]]:
    """Differences of every run to the full prefill, the random control and the best, at its rate.

    ``best`` has, measure by measure, the best mean (of TTFT, the best median) of all runs but the
    full prefill and the oracles, at the same rate or without one; it is chosen on the same items,
    which its interval does not allow for. Methods without a rate are compared at each rate.

    Parameters
    ----------
    results : runs over the same items in the same order, each method and rate once.

    Returns
    -------
    For each rate and method but ``no`` a dict of ``method``, ``rate`` (the run's own, or None),
    ``at`` (the rate of the comparison), ``oracle`` and ``to``: "no", "random" and "best" to
    measures (``MEASURES``), and these to ``{"other", "estimate", "ci95", "verdict"}``, method minus
    other. What is missing is left out: the control where it did not run, a run against itself, the
    times of oracles.

    Raises
    ------
    ValueError : runs over different items.
    """
    for result in results:
        if [i["id"] for i in result["items"]] != [i["id"] for i in results[0]["items"]]:
            raise ValueError(f"{method(result)} and {method(results[0])} ran on different items")
    wanted_rates: list[float | None] = [*rates(results)] or [None]
    fused = [result for result in results if method(result) != "no"]
    return [
        {
            "method": method(result),
            "rate": rate(result),
            "at": wanted,
            "oracle": result["oracle"],
            "to": _to_others(result, at(fused, wanted), seed),
        }
        for wanted in wanted_rates
        for result in at(fused, wanted)
    ]


def table(results: Results, seed: int) -> str:
    """One row per method and rate: differences, their intervals, and what may be claimed."""
    several = len(rates(results)) > 1
    rows = [
        [
            _name(row, several),
            *(_cell(row["to"].get(role, {}).get(name), digits) for role, name, digits in COLUMNS),
        ]
        for row in differences(results, seed)
    ]
    names = {"score": "score", "kl_mean": "KL"}
    head = ["method", *(f"{names[name]} - {role}" for role, name, _ in COLUMNS)]
    n = len(results[0]["items"])
    legend = LEGEND.format(
        n=n,
        few=f": {n} items are too few for any" if n < FEWEST else "",
        oracles=ORACLES if any(result["oracle"] for result in results) else "",
    )
    lines = columns([head, *rows], ["<", *[">"] * len(COLUMNS)])
    return "\n".join([*lines, "", legend])


def _name(row: dict[str, Any], several_rates: bool) -> str:
    """Method and rate; for a method without one, the rate that it is compared at."""
    name = row["method"] + "*" * row["oracle"]
    if row["rate"] is not None:
        return f"{name} {row['rate']:g}"
    return f"{name} (at {row['at']:g})" if several_rates and row["at"] is not None else name


def _cell(found: dict[str, Any] | None, digits: int) -> str:
    if found is None:
        return "-  "
    # Adding 0.0 turns the -0.0 of a rounded small loss into 0.0.
    estimate, low, high = (round(x, digits) + 0.0 for x in (found["estimate"], *found["ci95"]))
    interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{estimate:+.{digits}f} {interval} {SIGNS[found['verdict']]}"


def _to_others(result: dict[str, Any], peers: Results, seed: int) -> dict[str, dict[str, Any]]:
    random = next((r for r in peers if method(r).partition(":")[0] == "random"), None)
    to: dict[str, dict[str, Any]] = {"no": {}, "random": {}, "best": {}}
    for name, measure in MEASURES.items():
        ours = column(result, measure)
        if ours is None:
            continue
        reference = column(result, measure, full=True)
        if reference is not None:
            to["no"][name] = _difference("no", ours, reference, measure, seed)
        for role, other in (("random", random), ("best", _best(peers, measure))):
            theirs = None if other is None or other is result else column(other, measure)
            if other is not None and theirs is not None:
                to[role][name] = _difference(method(other), ours, theirs, measure, seed)
    return {role: found for role, found in to.items() if found}


def _best(peers: Results, measure: Measure) -> dict[str, Any] | None:
    found = []
    for result in peers:
        values = column(result, measure)
        if values is not None and not result["oracle"]:
            middle = np.mean(values) if measure.statistic == "mean" else np.median(values)
            found.append((-middle if measure.higher_is_better else middle, result))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _difference(
    other: str, ours: list[float], theirs: list[float], measure: Measure, seed: int
) -> dict[str, Any]:
    found = paired(ours, theirs, seed, measure.statistic)
    return {
        "other": other,
        **found,
        "verdict": verdict(found["ci95"], measure.higher_is_better, len(ours), measure.resolution),
    }
