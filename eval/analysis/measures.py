"""What of a run's records is compared, and which runs stand beside which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.analysis.finite import require_finite

# Float32 logits carry this much of a divergence by rounding alone: r = 1 reaches it, never 0.
ROUNDING = 1e-6
Results = Sequence[dict[str, Any]]


class Measure(NamedTuple):
    """What of a record is compared, and how.

    Attributes
    ----------
    full : the full prefill's value: in a record of any method, since both saw the item.
    resolution : values that differ by no more than this differ by rounding alone: a tie.
    partial : items without a value are left out, the same ones in every run over them: whether an
        item has a score depends on its answers alone.
    """

    value: Callable[[dict[str, Any]], float | None]
    full: Callable[[dict[str, Any]], float | None]
    statistic: str = "mean"
    higher_is_better: bool = False
    resolution: float = 0.0
    partial: bool = False


MEASURES = {
    "score": Measure(
        lambda item: item["score"],
        lambda item: item["full_score"],
        higher_is_better=True,
        resolution=1e-9,  # an F1 of 2/3 has three values, by what it is the mean of
        partial=True,
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


def selector(result: dict[str, Any]) -> str:
    """The method's selector by itself, options included: what it chooses no corrector changes."""
    return selector_of(method(result))


def selector_of(name: str) -> str:
    """The same, of a method's full name (``random`` of ``random @ prefix [int8]``)."""
    return name.partition(" + ")[0].partition(" @ ")[0].partition(" [")[0]


def corrector(result: dict[str, Any]) -> str:
    """The corrector of a run, ``none`` where cached rows stay as they are."""
    return str(result["config"].get("corrector", "none"))


def drop(result: dict[str, Any]) -> str:
    """The policy of a run, ``none`` where all rows stay in the cache."""
    return str(result["config"].get("drop", "none"))


def codec(result: dict[str, Any]) -> str:
    """The codec that a run's KVs lay under, ``none`` where they lay as they are."""
    return str(result["config"].get("codec") or "none")


def require_same_items(results: Results) -> None:
    """Raise ValueError for runs over different items, or in another order."""
    for result in results:
        if [i["id"] for i in result["items"]] != [i["id"] for i in results[0]["items"]]:
            raise ValueError(f"{method(result)} and {method(results[0])} ran on different items")


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
    read = measure.full if full else measure.value
    values = [read(item) for item in result["items"]]
    known = [value for value in values if value is not None]
    if not np.isfinite(known).all():
        named = {f"item {i['id']}": v for i, v in zip(result["items"], values, strict=True)}
        require_finite(named, f"{method(result)}: a figure")
    whole = len(known) == len(values) or (measure.partial and known)
    return known if whole else None
