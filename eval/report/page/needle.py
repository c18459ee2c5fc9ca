"""The needle test: score by context length and depth, a grid a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.report.heatmap import numbers
from eval.report.page.bars import run_name
from eval.report.page.chart import Grid

NOTE = "Mean score from 0 to 1; lengths run to the right, the needle's depth down from 0%."


def heatmaps(results: Sequence[dict[str, Any]], slug: str) -> list[Grid]:
    """A grid of every run on needles whose items have scores."""
    return [
        _grid(result, slug)
        for result in results
        if result["suite"] == "needle" and result["score"] is not None
    ]


def _grid(result: dict[str, Any], slug: str) -> Grid:
    table = numbers(result["items"])
    lengths = [f"{length}" for length in table["lengths"]]
    depths = [f"{depth:g}%" for depth in table["depths"]]
    cells = list(zip(table["scores"], table["counts"], strict=True))
    details = [
        [
            "" if score is None else f"{length} tokens, depth {depth}: {score:.2f} (n = {count})"
            for length, score, count in zip(lengths, scores, counts, strict=True)
        ]
        for depth, (scores, counts) in zip(depths, cells, strict=True)
    ]
    texts = [["" if s is None else f"{s:.2f}" for s in scores] for scores in table["scores"]]
    return Grid(
        name=f"{slug}-needle-{run_name(result)}",
        title=f"{run_name(result)}: mean {table['mean']:.2f}",
        x_label="context length (tokens)",
        y_label="depth of the needle",
        columns=lengths,
        lines=depths,
        values=table["scores"],
        texts=texts,
        details=details,
        note=NOTE,
        rate="" if (rate := result["config"]["options"].get("rate")) is None else f"{rate:g}",
    )
