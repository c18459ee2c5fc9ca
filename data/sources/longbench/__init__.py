"""LongBench rows: from a folder that is named, else the hub, else the samples that we wrote."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from data.dataset import Dataset
from data.hashing import combine, file_digest
from data.request import Request
from data.row import Rows
from data.sources.longbench import files
from data.sources.longbench.hub import HubUnavailable, hub_zip
from models.errors import UserError
from models.paths import user_path

SAMPLE_DIR = Path(__file__).resolve().parent.parent.parent / "samples"
REMEDY = "set LONGBENCH_DIR to a folder with LongBench's jsonl files, or go online"


@dataclass(frozen=True)
class Place:
    """The file that a task's rows are in; `missing` says why a sample stands in for the hub."""

    source: str
    path: Path
    where: str
    missing: str | None = None


def read(dataset: Dataset, request: Request) -> Rows:
    """A task's rows from `longbench_dir`, the hub, or a built-in sample, announced on stderr.

    A folder that was named is never passed over. Raises UserError for a place that lacks the task,
    a bad row, or rows that cannot be had; a sample is refused where `request.sample` is false.
    """
    place = _place(dataset, request)
    rows = files.read(place.path, dataset.name)
    chosen = rows[: request.limit]
    if place.missing:
        print(
            f"*** BUILT-IN SAMPLE, NOT THE BENCHMARK: {dataset.name} runs on {len(chosen)} rows "
            f"that we wrote ourselves; its scores compare with nothing published. The hub: "
            f"{place.missing}. For LongBench itself, {REMEDY}. ***",
            file=sys.stderr,
        )
    return Rows(chosen, place.source, place.where, place.missing is not None, len(rows))


def digest(dataset: Dataset, request: Request) -> str:
    """A hash of the file that the rows are in, or of the hub's repository and revision."""
    place = _place(dataset, request)
    return combine(place.where if place.source == "hub" else file_digest(place.path))


def _place(dataset: Dataset, request: Request) -> Place:
    name = dataset.name
    if request.longbench_dir:
        path = files.find(user_path(request.longbench_dir, "LONGBENCH_DIR="), name)
        return Place("folder", path, str(path))
    try:
        repo, path = hub_zip()
        # hf_hub_download answers .../snapshots/<revision>/data.zip.
        return Place("hub", path, f"{repo}@{path.parent.name}")
    except HubUnavailable as error:
        reason = str(error)
    # LongBench-E's tasks share the sample of their LongBench namesake.
    path = SAMPLE_DIR / f"{name.removesuffix('_e')}.jsonl"
    lack = f"{name}: LongBench cannot be had from the hub ({reason})"
    if not request.sample:
        raise UserError(f"{lack} and SAMPLE=0 refuses the built-in sample; {REMEDY}")
    if not path.is_file():
        raise UserError(f"{lack} and there is no built-in sample of it; {REMEDY}")
    return Place("built-in sample", path, str(path), reason)
