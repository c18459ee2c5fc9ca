"""One table over many datasets, with an average for each group and each benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.analysis.finite import require_finite
from eval.report.table import label, summary_of

LEGEND = (
    "full, score: the dataset's own metric, out of 100, of the full prefill and of the method; KL: "
    "the first token's\ndistance (nats) from the full prefill's distribution; x: speed-up of TTFT, "
    "KVs in memory. Averages weigh datasets alike."
)
Results = Sequence[dict[str, Any]]


def table(by_dataset: Sequence[Results]) -> str:
    """Rows are datasets, columns are methods.

    Parameters
    ----------
    by_dataset : for each dataset the results of all methods, in the same order.
    """
    for results in by_dataset:
        for result in results:
            require_finite(summary_of(result), f"{result['config']['dataset']}, {label(result)}")
    first = by_dataset[0]
    config, env = first[0]["config"], first[0]["environment"]
    lines = [
        f"{config['model']}: {len(by_dataset)} datasets; {config['dtype']}, {config['backend']} "
        f"attention, {env['device']}, {env['threads']} threads",
        "",
        f"{'dataset':<24}{'n':>5}  {'metric':<18}{'full':>6}"
        + "".join(f"{name:^22}" for name in map(label, first)),
        " " * 51 + "".join(f"{'score':>8}{'KL':>7}{'x':>6} " for _ in first),
    ]
    suites = list(dict.fromkeys(results[0]["suite"] for results in by_dataset))
    for suite in suites:
        members = [results for results in by_dataset if results[0]["suite"] == suite]
        for group in dict.fromkeys(results[0]["group"] for results in members):
            inside = [results for results in members if results[0]["group"] == group]
            lines += [_row(results) for results in inside]
            if len(inside) > 1:
                lines.append(_average(f"= {group}", inside))
        if len(members) > 1:
            lines += [_average(f"== {suite}", members), ""]
    lines += _lengths(by_dataset)
    notes = sum(results[0]["note"] is not None for results in by_dataset)
    if notes:
        lines += [
            f"*** marked *: {notes} ran on BUILT-IN SAMPLES, NOT THE BENCHMARK; no score "
            "of theirs compares with a published one ***",
            "",
        ]
    return "\n".join([*lines, LEGEND])


def _cells(results: Results) -> list[tuple[float, float, float]]:
    ready = [result["speedup"]["ready"] for result in results]
    return [
        (result["score"], result["kl_first"], np.nan if speedup is None else speedup)
        for result, speedup in zip(results, ready, strict=True)
    ]


def _format(name: str, n: int, metric: str, full: float, cells: Sequence[Sequence[float]]) -> str:
    columns = "".join(
        f"{s:>8.1f}{kl:>7.3f}" + (f"{'-':>6} " if np.isnan(x) else f"{x:>5.2f}x ")
        for s, kl, x in cells
    )
    return f"{name:<24}{n:>5}  {metric:<18}{full:>6.1f}{columns}".rstrip()


def _row(results: Results) -> str:
    first = results[0]
    name = first["config"]["dataset"] + ("*" if first["note"] else "")
    return _format(name, first["n"], first["metric"], first["full_score"], _cells(results))


def _average(name: str, members: Sequence[Results]) -> str:
    means = np.mean([_cells(results) for results in members], axis=0)
    full = float(np.mean([results[0]["full_score"] for results in members]))
    return _format(
        name, sum(results[0]["n"] for results in members), "average", full, means.tolist()
    )


def _lengths(by_dataset: Sequence[Results]) -> list[str]:
    """LongBench-E's scores by length of the context, averaged over its datasets."""
    tasks = [results for results in by_dataset if results[0]["score_by_length"]]
    lines = []
    for band in tasks[0][0]["score_by_length"] if tasks else ():
        scores = [
            [results[i]["score_by_length"][band] for results in tasks] for i in range(len(tasks[0]))
        ]
        known = [[score for score in column if score is not None] for column in scores]
        cells = "".join(f"{np.mean(c):>8.1f}{'':14}" if c else f"{'-':>8}{'':14}" for c in known)
        lines.append(f"{'LongBench-E ' + band:<51}{cells}".rstrip())
    return [*lines, ""] if lines else []
