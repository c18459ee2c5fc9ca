"""What a sweep over methods and rates leaves: ``sweep.json``, one table, and alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.analysis import compare, overlap
from eval.analysis.alarms import alarms
from eval.analysis.finite import require_finite
from eval.analysis.measures import Results, method, rate, rates
from eval.analysis.significance import hopeless
from eval.analysis.stats import RESAMPLES
from eval.report.comparison import show_p
from eval.report.table import OF_A_METHOD, ORACLES, show, summary_of
from stage.columns import columns

SHOWN = (("random", "kl_mean"), ("random", "score"))
COLUMNS = (
    ("method", "<"),
    ("rate", ">"),
    ("speed-up", ">"),
    ("limit", ">"),
    ("TTFT ms", ">"),
    ("select", ">"),
    ("KL first", ">"),
    ("KL answer", ">"),
    ("agree %", ">"),
    ("score", ">"),
    ("95% interval", ">"),
    ("retention %", ">"),
    ("KL vs random", "<"),
    ("score vs random", "<"),
)
LEGEND = (
    "speed-up: median full prefill / median TTFT, KVs in memory; limit: by arithmetic alone; "
    "select: ms of TTFT that the choice takes.\n"
    "KL: distance (nats) from the full prefill, of the first token and in the mean along the full "
    "prefill's own answer; agree: share of\nthat answer's tokens that the method ranks first too; "
    "retention: score as a share of the full prefill's. vs random: the control\nof the same "
    "rate, on the same items, the KL along the answer and the score. p: how often a difference as "
    "large comes about if it does not\nmatter which of the two an item got (permutation test: the "
    "signs of the items' differences are flipped), allowing for the {family}\ncomparisons of this "
    "table (Holm). better and worse are claims, where p < 0.05; ~ is not told apart{few}."
)


def content(
    results: Results,
    seed: int,
    load_ms: float | None = None,
    folders: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What ``sweep.json`` holds; table, alarms and picture are made from it.

    Parameters
    ----------
    results : runs over the same items in the same order, each method and rate once.
    load_ms : median time to read one item's KVs from disk, which all methods share.
    folders : where each run's results are, in the order of ``results``.

    Returns
    -------
    dict with ``note``, ``environment``, ``config`` (what all runs have in common), ``n``,
    ``available`` (items of the dataset), ``metric``, ``full_score``, ``tokens``,
    ``full_prefill_ms``, ``load_ms``, ``seed``, ``resamples``, ``methods``, ``rates``, ``rows`` (one
    per run), ``comparisons`` (how many the corrected p allow for), ``differences``
    (``compare.differences``), ``overlaps`` (``overlap.matrices``) and ``alarms``. Times in ms,
    scores out of 100, KL in nats; what an oracle may not claim is None.
    """
    first = results[0]
    paths: Sequence[str | None] = folders or [None] * len(results)
    for result in results:
        require_finite(summary_of(result), method(result))
    common = {
        key: value
        for key, value in first["config"].items()
        if key not in OF_A_METHOD and all(r["config"].get(key) == value for r in results)
    }
    compared = compare.differences(results, seed, SHOWN, rateless=False)
    return {
        "note": first["note"],
        "environment": first["environment"],
        "config": common,
        "n": first["n"],
        "available": first["inputs"]["available"],
        "metric": first["metric"],
        "full_score": first["full_score"],
        "tokens": first["tokens"],
        "full_prefill_ms": first["full_prefill_ms"],
        "load_ms": load_ms,
        "seed": seed,
        "resamples": RESAMPLES,
        "methods": list(dict.fromkeys(map(method, results))),
        "rates": rates(results),
        "rows": [_run(result, folder) for result, folder in zip(results, paths, strict=True)],
        "comparisons": compared.family,
        "differences": compared.rows,
        "overlaps": overlap.matrices(results),
        "alarms": alarms(results, seed),
    }


def _run(result: dict[str, Any], folder: str | None) -> dict[str, Any]:
    """One run's figures; times only where the method may claim them."""
    timed = not result["oracle"]
    ready = result["ttft_ms"]["ready"] if timed else None
    return {
        "method": method(result),
        "rate": rate(result),
        "options": result["config"]["options"],
        "oracle": result["oracle"],
        **{
            key: result.get(key)
            for name in ("score", "retention", "kl_first", "kl_mean", "top1_agreement")
            for key in (name, f"{name}_ci95")
        },
        "ttft_ready_ms": ready and {"median": ready["median"], "ci95": ready["ci95"]},
        "select_ms": result.get("select_ms") if timed else None,
        "speedup_ready": result["speedup"]["ready"] if timed else None,
        "flop_limit": result["flop_limit"] if timed else None,
        "delta_kv": _by_layer(result, "delta_kv"),
        "delta_attn": _by_layer(result, "delta_attn"),
        "folder": folder,
    }


def _by_layer(result: dict[str, Any], name: str) -> list[float] | None:
    """Mean over the items that have it, ``[L]``."""
    known = [item[name] for item in result["items"] if item.get(name) is not None]
    require_finite(known, f"{method(result)}: {name}")
    means: list[float] = np.mean(known, axis=0).tolist() if known else []
    return means or None


def text(sweep: dict[str, Any]) -> str:
    """All that a sweep prints at its end: the table, overlaps and alarms.

    Parameters
    ----------
    sweep : what ``content`` returned, or ``sweep.json`` read back.
    """
    lines = "\n".join(alarm["line"] for alarm in sweep["alarms"])
    return "\n\n".join(filter(None, [table(sweep), overlap.table(sweep["overlaps"]), lines]))


def table(sweep: dict[str, Any]) -> str:
    """One row per method and rate, with what they have in common above."""
    config, env = sweep["config"], sweep["environment"]
    load = "" if sweep["load_ms"] is None else f"; {sweep['load_ms']:.0f} ms to read KVs from disk"
    lines = [f"*** {sweep['note']} ***", ""] if sweep["note"] else []
    lines += [
        f"{config['model']} on {config['dataset']}: {sweep['n']} of {sweep['available']} items, "
        f"{sweep['tokens']['median']:.0f} tokens in the median; {config['dtype']}, "
        f"{config['backend']} attention, {env['device']}, {env['threads']} threads",
        f"full prefill: {sweep['full_prefill_ms']['median']:.0f} ms TTFT in the median, "
        f"{sweep['metric']} {sweep['full_score']:.1f}{load}",
        "",
    ]
    against = {
        (d["method"], d["rate"]): d["to"].get("random", {})
        for d in sweep["differences"]
        if d["rate"] is not None
    }
    rows = [_cells(row, against.get((row["method"], row["rate"]), {})) for row in sweep["rows"]]
    head = [name for name, _ in COLUMNS]
    lines += columns([head, *rows], [side for _, side in COLUMNS])
    n, family = sweep["n"], sweep["comparisons"]
    few = f": {n} items are too few for any claim" if hopeless(n, family) else ""
    lines += ["", LEGEND.format(family=family, few=few)]
    return "\n".join(lines + [ORACLES] * any(row["oracle"] for row in sweep["rows"]))


def _cells(row: dict[str, Any], to_random: dict[str, Any]) -> list[str]:
    def percent(value: float | None, digits: int) -> str:
        return show(None if value is None else 100 * value, digits)

    low, high = row["score_ci95"]
    found = [to_random.get(name) for _, name in SHOWN]
    ready = row["ttft_ready_ms"]
    return [
        row["method"] + "*" * row["oracle"],
        "" if row["rate"] is None else f"{row['rate']:g}",
        show(row["speedup_ready"], 2, "x"),
        show(row["flop_limit"], 2, "x"),
        show(ready and ready["median"], 0),
        show(row["select_ms"], 1),
        show(row["kl_first"], 3),
        show(row["kl_mean"], 3),
        percent(row["top1_agreement"], 1),
        show(row["score"], 1),
        f"{low:.1f} to {high:.1f}",
        percent(row["retention"], 0),
        *("" if difference is None else _claim(difference) for difference in found),
    ]


def _claim(difference: dict[str, Any]) -> str:
    verdict = difference["verdict"]
    word = "~" if verdict == "not told apart" else verdict
    return f"{word} {show_p(difference['p_holm'])}"
