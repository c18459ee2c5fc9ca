"""``make report``: all finished runs of a model and dataset side by side."""

from __future__ import annotations

import json
import sys
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
    """Print the tables of every dataset named."""
    for dataset in config.datasets():
        print(f"{tables(config, dataset.name)}\n")


def tables(config: StageConfig, dataset: str) -> str:
    """One table per group of runs over the same items by the same engine."""
    root = Path(config.outputs) / resolve(config.model).name / dataset
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for result in finished(root):
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
    if not groups:
        raise UserError(f"no finished run in {root}; make one: {config.command('eval')}")
    return "\n\n".join(
        compared([group[name] for name in sorted(group)]) for group in groups.values()
    )


def finished(root: Path) -> list[dict[str, Any]]:
    """Results of the runs in a folder, by their time; damaged ones are told and left out."""
    results = []
    for path in sorted(root.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            results.append(read_result(path) | {"folder": str(path.parent)})
        except UserError as damage:
            print(f"report: {damage}; left out", file=sys.stderr)
    return results


if __name__ == "__main__":
    sys.exit(command("report", StageConfig, main))
