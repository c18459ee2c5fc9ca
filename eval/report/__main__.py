"""``make report``: all finished runs of a model and dataset side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data import datasets
from eval.report.table import compared
from models.errors import UserError
from models.load.source import resolve
from stage.options import StageConfig, run


def main(config: StageConfig) -> None:
    """Print the tables of every dataset named."""
    for dataset in datasets.expand(config.dataset):
        print(f"{tables(config, dataset.name)}\n")


def tables(config: StageConfig, dataset: str) -> str:
    """One table per group of runs over the same items."""
    root = Path(config.outputs) / resolve(config.model).name / dataset
    results = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("*/result.json")]
    results = [result for result in results if "oracle" in result]  # others: an earlier version's
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


if __name__ == "__main__":
    run(StageConfig, main, "report", "eval.report")
