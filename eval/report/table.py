"""Tables for people, and ``make report``: all finished runs of a model and dataset side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import datasets
from eval.analysis.finite import require_finite
from eval.folder import read_results
from eval.report import comparison
from models.errors import UserError
from models.load.source import resolve
from stage.columns import columns
from stage.config import StageConfig
from stage.options import command

COLUMNS = (
    ("method", "<"),
    ("speed-up", ">"),
    ("(cold)", ">"),
    ("limit", ">"),
    ("TTFT ms", ">"),
    ("(cold)", ">"),
    ("select", ">"),
    ("KL first", ">"),
    ("KL answer", ">"),
    ("agree %", ">"),
    ("score", ">"),
    ("95% interval", ">"),
    ("retention %", ">"),
)
LEGEND = (
    "speed-up: median full prefill / median TTFT, KVs in memory; (cold): KVs read from disk; "
    "limit: by arithmetic alone;\nselect: ms of TTFT that the choice takes. KL: distance (nats) "
    "from the full prefill, of the first token's distribution and\nin the mean along the full "
    "prefill's own answer; agree: share of that answer that the method gives, token by token;\n"
    "retention: score as a share of the full prefill's."
)
ORACLES = "* oracle: an upper bound that has seen the full prefill; it has no time of its own."


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per run of the same items, with what they have in common above."""
    for result in results:
        require_finite(summary_of(result), label(result))
    first = results[0]
    config, env = first["config"], first["environment"]
    lines = []
    if first["note"]:
        lines += [f"*** {first['note']} ***", ""]
    lines += [
        f"{config['model']} on {config['dataset']}: {first['n']} of "
        f"{first['inputs']['available']} items, "
        f"{first['tokens']['median']:.0f} tokens in the median; {config['dtype']}, "
        f"{config['backend']} attention, {env['device']}, {env['threads']} threads",
        f"full prefill: {first['full_prefill_ms']['median']:.0f} ms TTFT in the median, "
        f"{first['metric']} {first['full_score']:.1f}",
        "",
    ]
    rows = [[name for name, _ in COLUMNS], *map(_row, results)]
    lines += columns(rows, [side for _, side in COLUMNS])
    oracles = [ORACLES] if any(result["oracle"] for result in results) else []
    return "\n".join([*lines, "", LEGEND, *oracles])


def summary_of(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its items."""
    return {key: value for key, value in result.items() if key != "items"}


def label(result: dict[str, Any]) -> str:
    """Method and rate, as tables and titles name a run."""
    options = result["config"]["options"]
    return result["config"]["method"] + (f" {options['rate']:g}" if "rate" in options else "")


def _row(result: dict[str, Any]) -> list[str]:
    ttft = {when: found and found["median"] for when, found in result["ttft_ms"].items()}
    low, high = result["score_ci95"]
    retention = result["retention"]
    return [
        label(result) + "*" * result["oracle"],
        show(result["speedup"]["ready"], 2, "x"),
        show(result["speedup"]["cold"], 2, "x"),
        show(result["flop_limit"], 2, "x"),
        show(ttft["ready"], 0),
        show(ttft["cold"], 0),
        show(result["select_ms"], 1),
        f"{result['kl_first']:.3f}",
        f"{result['kl_mean']:.3f}",
        f"{100 * result['top1_agreement']:.1f}",
        f"{result['score']:.1f}",
        f"{low:.1f} to {high:.1f}",
        "n/a" if retention is None else f"{100 * retention:.0f}",
    ]


def show(value: float | None, digits: int, unit: str = "") -> str:
    """A figure with its unit, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def details(result: dict[str, Any]) -> str:
    """The table and below it what it leaves out, for ``result.txt``."""
    memory = result["memory_mb"]
    checks = "; ".join(f"{c['name']}: {c['distance']:.1e}" for c in result["gate"]["checks"])
    tpot = result["tpot_ms"]["median"]
    lines = [
        table([result]),
        "",
        *_times(result),
        f"TPOT median, ms: {tpot:.1f}" if tpot is not None else "TPOT: not measured",
        f"peak memory, MB: {memory['peak']:.0f} (weights {memory['weights']:.0f}, largest item's "
        f"KV {memory['kv']:.0f}, allowed {memory['allowed']:.0f})",
        *_more_scores(result),
        f"gate passed, largest distance in logits: {checks}",
        f"made by kvfuse {result['environment']['kvfuse']} from inputs "
        f"{result['config']['inputs']}, weights {result['config']['weights']}",
    ]
    return "\n".join(lines) + "\n"


def _times(result: dict[str, Any]) -> list[str]:
    """Parts of TTFT and its 95th percentiles, as far as they were measured."""
    lines = []
    for when, name in (("cold", "ttft_parts_ms"), ("ready", "ttft_parts_ready_ms")):
        if result[name]:
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in result[name].items())
            lines.append(f"{when} TTFT by part, ms: {parts}")
    measured = {when: times for when, times in result["ttft_ms"].items() if times}
    measured["full prefill"] = result["full_prefill_ms"]
    p95 = ", ".join(f"{when} {times['p95']:.0f}" for when, times in measured.items())
    dropped = [item["page_cache_dropped"] for item in result["items"]]
    if False in dropped:
        lines.append("the system did NOT drop the KVs from memory: cold is not cold here")
    return [*lines, f"TTFT p95, ms: {p95}"]


def _more_scores(result: dict[str, Any]) -> list[str]:
    """Further metrics, and LongBench-E's scores by length, where a dataset has them."""
    bands = result["score_by_length"] or {}
    found = result["extra_scores"] | {f"{name} words": score for name, score in bands.items()}
    known = [f"{name} {score:.1f}" for name, score in found.items() if score is not None]
    return [f"further scores: {', '.join(known)}"] if known else []


def main(config: StageConfig) -> None:
    """Print the tables of every dataset named."""
    for dataset in datasets.expand(config.dataset):
        print(f"{tables(config, dataset.name)}\n")


def tables(config: StageConfig, dataset: str) -> str:
    """One table per group of runs over the same items."""
    root = Path(config.outputs) / resolve(config.model).name / dataset
    results = read_results(root)
    if not results:
        raise UserError(
            f"no finished run in {root}; make one: make eval MODEL={config.model} DATASET={dataset}"
        )
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(
        results, key=lambda r: (r["config"]["method"], str(r["config"]["options"]))
    ):
        same = {k: v for k, v in result["config"].items() if k not in ("method", "options")}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(result)
    return "\n\n".join(compared(group) for group in groups.values())


def compared(results: Sequence[dict[str, Any]]) -> str:
    """The table and, where there is something to compare, the differences below it."""
    seed = results[0]["config"]["seed"]
    return "\n\n".join([table(results), *([comparison.table(results, seed)] * (len(results) > 1))])


if __name__ == "__main__":
    sys.exit(command("report", StageConfig, main))
