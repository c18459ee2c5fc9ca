"""Tables for people, and ``make report``: all finished runs of a model and dataset side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import datasets
from data.cli import StageConfig, run
from models.errors import UserError
from models.source import resolve

COLUMNS = (
    ("method", "<12"),
    ("speed-up", ">8"),
    ("(cold)", ">7"),
    ("limit", ">6"),
    ("TTFT ms", ">8"),
    ("(cold)", ">7"),
    ("KL first", ">9"),
    ("agree %", ">8"),
    ("score", ">6"),
    ("95% interval", ">13"),
    ("retention %", ">11"),
)
LEGEND = (
    "speed-up: median full prefill / median TTFT, KVs in memory; (cold): KVs read from disk; "
    "limit: by arithmetic alone.\n"
    "KL first: distance (nats) of the first token's distribution from the full prefill's; agree: "
    "share of the full prefill's\nown answer that the method gives, token by token; retention: "
    "score as a share of the full prefill's."
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per run of the same items, with what they have in common above."""
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
        "  ".join(f"{name:{spec}}" for name, spec in COLUMNS),
    ]
    for result in results:
        lines.append(
            "  ".join(
                f"{cell:{spec}}" for cell, (_, spec) in zip(_row(result), COLUMNS, strict=True)
            )
        )
    return "\n".join([*lines, "", LEGEND])


def label(result: dict[str, Any]) -> str:
    """Method and rate, as tables and titles name a run."""
    options = result["config"]["options"]
    return result["config"]["method"] + (f" {options['rate']:g}" if "rate" in options else "")


def _row(result: dict[str, Any]) -> list[str]:
    ttft = result["ttft_ms"]
    low, high = result["score_ci95"]
    retention = result["retention"]
    return [
        label(result),
        f"{result['speedup']['ready']:.2f}x",
        f"{result['speedup']['cold']:.2f}x",
        f"{result['flop_limit']:.2f}x",
        f"{ttft['ready']['median']:.0f}",
        f"{ttft['cold']['median']:.0f}",
        f"{result['kl_first']:.3f}",
        f"{100 * result['top1_agreement']:.1f}",
        f"{result['score']:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{100 * retention:.0f}" if retention is not None else "n/a",
    ]


def details(result: dict[str, Any]) -> str:
    """The table and below it what it leaves out, for ``result.txt``."""
    parts = result["ttft_parts_ms"]
    memory = result["memory_mb"]
    checks = "; ".join(f"{c['name']}: {c['distance']:.1e}" for c in result["gate"]["checks"])
    tpot = result["tpot_ms"]["median"]
    lines = [
        table([result]),
        "",
        "cold TTFT by part, ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items()),
        f"TTFT p95, ms: ready {result['ttft_ms']['ready']['p95']:.0f}, "
        f"cold {result['ttft_ms']['cold']['p95']:.0f}, "
        f"full prefill {result['full_prefill_ms']['p95']:.0f}",
        f"TPOT median, ms: {tpot:.1f}"
        if tpot is not None
        else "TPOT: no answer had a second token",
        f"peak memory, MB: {memory['peak']:.0f} (weights {memory['weights']:.0f}, largest item's "
        f"KV {memory['kv']:.0f}, allowed {memory['allowed']:.0f})",
        *_more_scores(result),
        f"gate passed, largest distance in logits: {checks}",
        f"made by kvfuse {result['environment']['kvfuse']} from inputs "
        f"{result['config']['inputs']}, weights {result['config']['weights']}",
    ]
    return "\n".join(lines) + "\n"


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
    results = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("*/result.json")]
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
    return "\n\n".join(table(group) for group in groups.values())


if __name__ == "__main__":
    run(StageConfig, main, "report")
