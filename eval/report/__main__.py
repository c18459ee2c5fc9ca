"""``make report``: all finished runs of a model and dataset side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.folder import read_result
from eval.report.figures import OWN
from eval.report.table import compared
from models.errors import UserError
from models.load.source import resolve
from stage.config import StageConfig
from stage.options import command


def main(config: StageConfig) -> None:
    """Print the tables of every dataset named.

    Raises
    ------
    UserError : there is no finished run, or some are damaged: the others are printed before.
    """
    damaged: list[str] = []
    for dataset in config.datasets():
        root = Path(config.outputs) / resolve(config.model).name / dataset.name
        results, damage = finished(root)
        damaged += damage
        if results:
            print(f"{tables(results)}\n")
        elif not damage:
            raise UserError(f"no finished run in {root}; make one: {config.command('eval')}")
    if damaged:
        raise UserError("left out: " + "; ".join(damaged))


def tables(results: Sequence[dict[str, Any]]) -> str:
    """One table per group of runs over the same items by the same engine."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        method = {key: result["config"][key] for key in ("method", "options")}
        same = {key: value for key, value in result["config"].items() if key not in OWN}
        group = groups.setdefault(json.dumps(same, sort_keys=True), {})
        if earlier := group.pop(name := json.dumps(method, sort_keys=True), None):
            print(
                f"report: {earlier['folder']} is left out: the method's source was another in a "
                "later run",
                file=sys.stderr,
            )
        group[name] = result
    return "\n\n".join(
        compared([group[name] for name in sorted(group)]) for group in groups.values()
    )


def finished(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the runs in a folder, by their time, and what is wrong with the others."""
    results, damaged = [], []
    for path in sorted(root.glob("*/result.json"), key=lambda path: path.lstat().st_mtime_ns):
        try:
            results.append(read_result(path) | {"folder": str(path.parent)})
        except UserError as damage:
            damaged.append(str(damage))
    return results, damaged


if __name__ == "__main__":
    sys.exit(command("report", StageConfig, main))
