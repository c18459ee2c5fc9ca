"""Raw rows of a dataset, from the first place that has them, and word of where that was."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.request import Request
from data.sources import hotpotqa, longbench, needle, ruler
from models.errors import UserError

SAMPLE_DIR = Path(__file__).resolve().parent / "samples"


@dataclass(frozen=True)
class Rows:
    """Rows in LongBench's schema and where they came from.

    `rows` are dicts with input, context, answers, length, dataset, language, all_classes, _id.
    `source` is "folder", "hub", "data pack", "generator" or "built-in sample"; `where` is the
    file, or the hub repository and revision; `available` counts the rows there, uncut
    by `LIMIT`.
    """

    rows: list[dict]
    source: str
    where: str
    is_sample: bool
    available: int


def load_rows(dataset: Dataset, request: Request) -> Rows:
    """The rows of `dataset` that `request` asks for.

    LongBench is looked for in `longbench_dir` (or the environment's LONGBENCH_DIR), then on the
    Hugging Face hub, then among the built-in samples, which are announced on stderr and refused
    where `sample` is false. A folder that was named is never passed over. Raises UserError for a
    place that lacks the task, a bad row, or rows that cannot be had.
    """
    generators = {"ruler": ruler.generate, "needle": needle.generate}
    if dataset.source in generators:
        rows, available, where = generators[dataset.source](dataset, request)
        source = "folder" if dataset.source == "ruler" and request.ruler_dir else "generator"
        return Rows(rows, source, where, False, available)
    limit = request.limit
    if dataset.source == "hotpotqa_pack":
        rows, available, where = hotpotqa.from_pack(dataset.name, limit)
        return Rows(rows, "data pack", where, False, available)
    folder = request.longbench_dir or os.environ.get("LONGBENCH_DIR")
    if folder:
        rows, where = longbench.from_folder(Path(folder).expanduser(), dataset.name)
        return Rows(rows[:limit], "folder", where, False, len(rows))
    try:
        rows, where = longbench.from_hub(dataset.name)
        return Rows(rows[:limit], "hub", where, False, len(rows))
    except longbench.HubUnavailable as error:
        return _built_in(dataset, limit, request.sample, str(error))


def _built_in(dataset: Dataset, limit: int | None, allowed: bool, reason: str) -> Rows:
    """The sample that we wrote; LongBench-E's tasks share that of their LongBench namesake."""
    name = dataset.name
    remedy = "set LONGBENCH_DIR to a folder with LongBench's jsonl files, or go online"
    path = SAMPLE_DIR / f"{name.removesuffix('_e')}.jsonl"
    if not allowed:
        raise UserError(
            f"{name}: LongBench cannot be had from the hub ({reason}) and SAMPLE=0 refuses the "
            f"built-in sample; {remedy}"
        )
    if not path.is_file():
        raise UserError(
            f"{name}: LongBench cannot be had from the hub ({reason}) and there is no built-in "
            f"sample of it; {remedy}"
        )
    rows = longbench.read_jsonl(path)
    print(
        f"*** BUILT-IN SAMPLE, NOT THE BENCHMARK: {name} runs on {len(rows[:limit])} rows that we "
        f"wrote ourselves; its scores compare with nothing published. The hub: {reason}. For "
        f"LongBench itself, {remedy}. ***",
        file=sys.stderr,
    )
    return Rows(rows[:limit], "built-in sample", str(path), True, len(rows))
