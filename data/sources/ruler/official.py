"""Files that RULER's own generator made, taken apart again by the task's template."""

from __future__ import annotations

import re
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.jsonl import objects, opened
from data.row import Row
from models.errors import UserError
from models.paths import user_path

_ENDINGS = ("", ".gz", ".xz")
_FIELDS: dict[str, type] = {"index": int, "input": str, "outputs": list, "length": int}


def from_folder(
    dataset: Dataset, ruler_dir: str, lengths: tuple[int, ...] = ()
) -> tuple[list[Row], str]:
    """A task's rows and the file (or folder, of several files) that they are from.

    The rows of several lengths take turns. Raises UserError where the folder or the task is
    missing, and for rows that are not RULER's.
    """
    files = find(dataset, ruler_dir, lengths)
    tables = [read(dataset, path, tokens) for tokens, path in files.items()]
    rows = [row for row in chain(*zip_longest(*tables)) if row is not None]
    folder = user_path(ruler_dir, "RULER_DIR=")
    return rows, str(folder if len(files) > 1 else next(iter(files.values())))


def find(dataset: Dataset, ruler_dir: str, lengths: tuple[int, ...] = ()) -> dict[int | None, Path]:
    """A task's files by the tokens that their names tell, None where the name tells none.

    Looks for `<task>/validation.jsonl`, `<task>.jsonl` and `<task>_<tokens>.jsonl`, plain, .gz or
    .xz; the last may be several, of which `lengths` chooses. Raises UserError where the folder,
    the task or a length is missing.
    """
    folder, task = user_path(ruler_dir, "RULER_DIR="), dataset.name.removeprefix("ruler_")
    if not folder.is_dir():
        raise UserError(f"RULER_DIR={ruler_dir} is not a folder; name one that holds {task}.jsonl")
    files = _files(folder, task)
    if not files:
        held = sorted(p.name for p in folder.iterdir() if ".jsonl" in p.name or p.is_dir())
        listed = ", ".join(held[:24]) + (", …" if len(held) > 24 else "") or "nothing like it"
        raise UserError(
            f"RULER_DIR={ruler_dir} has no {task}/validation.jsonl, {task}.jsonl or "
            f"{task}_<tokens>.jsonl (plain, .gz or .xz); it holds {listed}"
        )
    if not lengths or None in files:
        return files
    if missing := [length for length in lengths if length not in files]:
        there = ", ".join(map(str, files))
        raise UserError(
            f"RULER_DIR={ruler_dir} has no {task} of LENGTHS={missing[0]}; it has {there}"
        )
    return {length: files[length] for length in dict.fromkeys(lengths)}


def _files(folder: Path, task: str) -> dict[int | None, Path]:
    for name in (f"{task}/validation.jsonl", f"{task}.jsonl"):
        for end in _ENDINGS:
            if (path := folder / f"{name}{end}").is_file():
                return {None: path}
    pattern = re.compile(rf"{re.escape(task)}_(\d+)\.jsonl(\.gz|\.xz)?")
    named = [(match, path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return dict(sorted((int(match[1]), path) for match, path in named))


def read(dataset: Dataset, path: Path, tokens: int | None = None) -> list[Row]:
    """The rows of one file.

    `context_length` is `tokens`, or else the length of the file's longest row in the tokens of
    whoever made it. Raises UserError naming the file and line of a row that is not RULER's.
    """
    with opened(path) as lines:
        found = objects(lines, str(path), "make it again", "row of RULER")
        records = [(_checked(record, here), here) for record, here in found]
    if not records:
        raise UserError(f"{path} holds no rows; make it again")
    longest = tokens or max(record["length"] for record, _ in records)
    rows = [_row(dataset, record, longest, where) for record, where in records]
    if len({row.id for row in rows}) < len(rows):
        raise UserError(f"{path}: an index occurs twice; indices must differ")
    return rows


def _checked(record: dict[str, Any], where: str) -> dict[str, Any]:
    if missing := [field for field in _FIELDS if field not in record]:
        raise UserError(f"{where}: the row lacks {', '.join(missing)}; RULER's rows have them")
    for field, kind in _FIELDS.items():
        if type(record[field]) is not kind:
            raise UserError(f"{where}: {field} must be {kind.__name__}, not {record[field]!r:.60}")
    if not record["outputs"] or not all(isinstance(text, str) for text in record["outputs"]):
        raise UserError(f"{where}: outputs must be a list of at least one text")
    return record


def _row(dataset: Dataset, record: dict[str, Any], tokens: int, where: str) -> Row:
    context, asked = split(dataset, record["input"], where)
    begun = dataset.begin(asked)
    if record.get("answer_prefix", begun).strip() != begun.strip():
        raise UserError(f"{where}: answer_prefix is not {dataset.name}'s, {begun.strip()!r}")
    return Row(
        f"{tokens}-{record['index']:04d}",
        asked,
        context,
        answers=record["outputs"],
        language=dataset.language,
        details={"context_length": tokens, "task": dataset.name.removeprefix("ruler_")},
    )


def split(dataset: Dataset, prompt: str, where: str) -> tuple[str, str]:
    """The context and the input of a whole prompt, with or without the answer's beginning.

    Raises UserError where the prompt is not the task's template in RULER's base form.
    """
    prompt = prompt.lstrip()
    head, hole, tail = dataset.question.partition("{input}")
    start = prompt.rfind(head)
    begun = re.escape(dataset.answer_prefix.rstrip())
    echo = begun.replace(re.escape("{input}"), "(?P=input)")
    asked = "(?P<input>.+?)" if hole else "(?P<input>)"
    question = re.compile(rf"{asked}{re.escape(tail)}(?:{echo})?\s*", re.DOTALL)
    match = question.fullmatch(prompt, start + len(head)) if start >= 0 else None
    if match is None or not prompt.startswith(dataset.instruction):
        raise UserError(
            f"{where}: the input is not {dataset.name}'s template (model_template_type base); "
            "RULER_DIR must hold this task, made for a base model"
        )
    return prompt[len(dataset.instruction) : start], match["input"]
