"""Raw rows of a dataset, from the first place that has them, and word of where that was."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from data import hotpotqa, longbench
from data.datasets import Dataset
from models.errors import UserError

SAMPLE_DIR = Path(__file__).resolve().parent / "samples"


@dataclass(frozen=True)
class Rows:
    """Rows in LongBench's schema and where they came from.

    `rows` are dicts with input, context, answers, length, dataset, language, all_classes, _id.
    `source` is "folder", "hub", "data pack" or "built-in sample"; `where` is the file, or the hub
    repository and revision; `available` counts the rows there before `LIMIT` cut them.
    """

    rows: list[dict]
    source: str
    where: str
    is_sample: bool
    available: int


def load_rows(
    dataset: Dataset, limit: int | None, longbench_dir: str | None = None, sample: bool = True
) -> Rows:
    """The first `limit` rows (None: all) of `dataset`.

    LongBench is looked for in `longbench_dir` (or the environment's LONGBENCH_DIR), then on the
    Hugging Face hub, then among the built-in samples, which are announced on stderr and refused
    where `sample` is false. A folder that was named is never passed over. Raises UserError for a
    limit below 1, a place that lacks the task, a bad row, or rows that cannot be had.
    """
    if limit is not None and limit < 1:
        raise UserError(f"LIMIT={limit} asks for no rows; give 1 or more, or leave it out for all")
    if dataset.source == "hotpotqa_pack":
        rows, available, where = hotpotqa.from_pack(dataset.name, limit)
        return Rows(rows, "data pack", where, False, available)
    folder = longbench_dir or os.environ.get("LONGBENCH_DIR")
    if folder:
        rows, where = longbench.from_folder(Path(folder).expanduser(), dataset.name)
        return Rows(rows[:limit], "folder", where, False, len(rows))
    try:
        rows, where = longbench.from_hub(dataset.name)
        return Rows(rows[:limit], "hub", where, False, len(rows))
    except longbench.HubUnavailable as error:
        return _built_in(dataset.name, limit, sample, str(error))


def _built_in(name: str, limit: int | None, allowed: bool, reason: str) -> Rows:
    remedy = "set LONGBENCH_DIR to a folder with LongBench's jsonl files, or go online"
    path = SAMPLE_DIR / f"{name}.jsonl"
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
