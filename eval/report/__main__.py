"""``make report``: the finished runs of a model and dataset as tables, and all runs as a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.folder import read_result
from eval.report.config import ReportConfig
from eval.report.groups import grouped
from eval.report.page.collect import complete
from eval.report.table import compared
from models.errors import UserError
from models.load.source import resolve
from stage.options import command


def main(config: ReportConfig) -> None:
    """Print the tables of every dataset named, then write the page.

    Raises
    ------
    UserError : a folder or a dataset that was named has no run, or some runs are damaged: all else
        is printed and written before.
    """
    for folder in config.folders:
        if not Path(folder).is_dir():
            raise UserError(f"FOLDERS={folder}: there is no such folder")
    damaged, lacking = [], []
    make_one = config.command("eval", folders=None, page=None)
    for dataset in config.datasets():
        root = Path(config.outputs) / resolve(config.model).name / dataset.name
        whole, damage = finished(root)
        results, older = usable(whole)
        damage += older
        damaged += damage
        if results:
            print(f"{tables(results)}\n")
        elif not damage:
            lacking.append(f"no finished run in {root}; make one: {make_one}")
    written = write_page(config) if config.page else None
    # Of a dataset that nobody named, and be it the last one, nothing need be there.
    if lacking and (written is None or {"model", "dataset"} & config.given.keys()):
        raise UserError(lacking[0])
    for line in lacking:
        print(f"report: {line}", file=sys.stderr)
    if damaged:
        raise UserError("left out: " + "; ".join(damaged))


def write_page(config: ReportConfig) -> Path | None:
    """Write the page over all runs and say where it is; None where there is nothing to show."""
    from eval.report.page.texts import Texts  # these bring the tokenizers in
    from eval.report.page.write import FOLDER, write

    folders = [(Path(config.inputs), Path(config.kvs))]
    for root in config.roots():  # runs that were copied with what they were made from
        folders.append((root.parent / "inputs", root.parent / "kvs"))
    target = Path(config.outputs) / FOLDER
    path, found = write(config.roots(), target, Texts([config.model], list(dict.fromkeys(folders))))
    if path is not None:
        counts = [f"{len(found.results)} finished runs"]
        for what, some in (
            ("half finished", found.unfinished),
            ("damaged or of another version", found.damaged),
            ("failed gates", found.failed),
        ):
            counts += [f"{len(some)} {what}"] if some else []
        print(f"report: {path} ({', '.join(counts)})")
    return path


def tables(results: Sequence[dict[str, Any]]) -> str:
    """One table per group of runs over the same items by the same engine."""
    groups, replaced = grouped(results)
    for line in replaced:
        print(f"report: {line}", file=sys.stderr)
    return "\n\n".join(map(compared, groups))


def finished(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the runs in a folder, by their time, and what is wrong with the others."""
    results, damaged = [], []
    paths = [folder / "result.json" for folder in root.glob("*")]
    there = [path for path in paths if os.path.lexists(path)]
    for path in sorted(there, key=lambda path: path.lstat().st_mtime_ns):
        try:
            results.append(read_result(path) | {"folder": str(path.parent)})
        except UserError as damage:
            damaged.append(str(damage))
    return results, damaged


def usable(results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Those that hold all that a report shows, and what is wrong with the others."""
    found, older = [], []
    for result in results:
        try:
            found.append(complete(result, Path(result["folder"]) / "result.json"))
        except UserError as other:
            older.append(str(other))
    return found, older


if __name__ == "__main__":
    sys.exit(command("report", ReportConfig, main))
