"""Quality against time, and deviations by layer: a line a method."""

from __future__ import annotations

from collections.abc import Sequence

from eval.analysis.measures import ROUNDING
from eval.report.figures import Report, name
from eval.report.page.chart import Line, Lines
from eval.report.page.style import FULL_PREFILL, Style

MEASURES = {
    "score": ("Score against time to first token", "score (out of 100)"),
    "kl_mean": ("Distance against time to first token", "KL along the answer (nats)"),
}
LAYERS = {
    "delta_kv": ("Δ_kv by layer: the documents' KVs", "relative deviation of KVs"),
    "delta_attn": ("Δ_attn by layer: the question's attention", "relative deviation of attention"),
}
NAMES = {"no": " (full prefill)", "full": " (full reuse)"}
X = "TTFT, KVs in memory (ms, median)"
NOTE = (
    "A line is a method over its rates; bars are 95% intervals over items. The upright tick beside "
    "a point is the time that arithmetic alone would allow: full prefill over the FLOP limit."
)


def pareto(found: Report, slug: str, styles: dict[str, Style], ids: Sequence[str]) -> list[Lines]:
    """Score and distance against TTFT.

    Parameters
    ----------
    found : what ``figures.report`` returned.
    ids : the page's names of its rows.
    """
    charts = []
    full_ms = found["full_prefill_ms"]["median"]
    for measure, (title, label) in MEASURES.items():
        lines: dict[str, Line] = {}
        for row, run in zip(found["rows"], ids, strict=True):
            times = row["ttft_ready_ms"]
            if times is None or row[measure] is None:
                continue
            method = row["method"]
            line = lines.setdefault(method, Line(called(method), styles[method], [], []))
            line.x.append(times["median"])
            line.y.append(row[measure])
            line.runs.append(run)
            line.labels.append(name(row))
            line.x_ci.append(times["ci95"])
            line.y_ci.append(row[f"{measure}_ci95"])
            limit = row["flop_limit"]
            line.limits.append(full_ms / limit if limit and row["method"] != "no" else None)
        if not lines:
            continue
        guides = []
        if measure == "score" and found["full_score"] is not None:
            guides.append((called("no"), FULL_PREFILL, found["full_score"]))
        for row in found["rows"]:
            if row["method"] == "full" and row[measure] is not None:
                guides.append((called("full"), styles["full"], row[measure]))
        charts.append(Lines(f"{slug}-{measure}", title, X, label, [*lines.values()], guides, NOTE))
    return charts


def layers(found: Report, slug: str, styles: dict[str, Style], ids: Sequence[str]) -> list[Lines]:
    """Deviations by layer of the runs that measured them, a chart a rate; the full prefill's are 0.

    Methods without a rate stand beside those of each.
    """
    charts = []
    for wanted in rates_of(found):
        for measure, (title, label) in LAYERS.items():
            lines = [
                Line(
                    label=row["method"],
                    style=styles[row["method"]],
                    x=list(range(len(row[measure]))),
                    y=row[measure],
                    runs=[run] * len(row[measure]),
                )
                for row, run in zip(found["rows"], ids, strict=True)
                if row[measure] is not None
                and row["method"] != "no"
                and row["rate"] in (None, wanted)
            ]
            values = [y for line in lines for y in line.y if y > ROUNDING]
            if lines:
                wide = bool(values) and max(values) > 100 * min(values)
                at = "" if wanted is None else f"{wanted:g}"
                name = f"{slug}-{measure}" + (f"-r{at}" if at else "")
                charts.append(Lines(name, title, "layer", label, lines, rate=at, log_y=wide))
    return charts


def called(method: str) -> str:
    """A method's name, and what the two ends of the scale are."""
    return method + NAMES.get(method, "")


def rates_of(found: Report) -> list[float | None]:
    """The rates of a report's rows, rising; one None where no method has any."""
    return sorted({row["rate"] for row in found["rows"] if row["rate"] is not None}) or [None]
