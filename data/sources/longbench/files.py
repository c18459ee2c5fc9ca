"""LongBench's files: a task's jsonl, or the benchmark's data.zip, checked line by line."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.jsonl import objects, opened
from data.row import Row
from models.errors import UserError

ZIP = "data.zip"

_ENDINGS = ("", ".gz", ".xz", ".bz2")
_FIELDS = ("input", "context", "answers", "length", "dataset", "language", "all_classes", "_id")


def find(folder: Path, task: str) -> Path:
    """The file that holds a task: `<task>.jsonl[.gz|.xz|.bz2]` or a data.zip in `folder`.

    A data.zip given in the folder's place, or unpacked in it, serves too. Raises UserError where
    there is no such folder, or where it lacks the task (listing what it has).
    """
    if folder.is_file() and zipfile.is_zipfile(folder):
        return folder
    if not folder.is_dir():
        raise UserError(f"LONGBENCH_DIR={folder} is not a folder; name one that holds {task}.jsonl")
    for path in (folder / sub / f"{task}.jsonl{end}" for sub in ("", "data") for end in _ENDINGS):
        if path.is_file():
            return path
    if (folder / ZIP).is_file():
        return folder / ZIP
    held = sorted({path.name for path in folder.glob("*.jsonl*")})
    raise UserError(
        f"LONGBENCH_DIR={folder} has no {task}.jsonl (plain, .gz, .xz or .bz2) and no {ZIP}; "
        f"it holds {_listed(held)}"
    )


def read(path: Path, task: str) -> list[Row]:
    """A task's rows from what `find` found; raises UserError where a row or the file is bad."""
    zipped = path.name == ZIP or zipfile.is_zipfile(path)  # a zip cut short is no zip file
    return from_zip(path, task) if zipped else read_jsonl(path)


def from_zip(path: Path, task: str) -> list[Row]:
    """A task's rows from `<task>.jsonl` inside a zip, in whatever folder; nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            if f"{task}.jsonl" not in members:
                held = sorted(name for name in members if name.endswith(".jsonl"))
                raise UserError(f"{path} has no {task}.jsonl; it holds {_listed(held)}")
            with archive.open(members[f"{task}.jsonl"]) as lines:
                return parse_rows(lines, f"{path}/{task}.jsonl")
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}); delete it and fetch it again") from None


def read_jsonl(path: Path) -> list[Row]:
    """The rows of one jsonl file, plain or compressed as its name says."""
    with opened(path) as lines:
        return parse_rows(lines, str(path))


def parse_rows(lines: Iterable[bytes], where: str) -> list[Row]:
    """Rows from jsonl in LongBench's schema; raises UserError naming `where` and the bad line."""
    found = objects(lines, where, "fetch it again", "LongBench row")
    rows = [_row(row, here) for row, here in found]
    if not rows:
        raise UserError(f"{where} holds no rows; fetch it again")
    ids = [row.id for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{where}: _id {twice!r} occurs twice; ids must differ")
    return rows


def _row(row: dict[str, Any], where: str) -> Row:
    missing = [field for field in _FIELDS if field not in row]
    if missing:
        raise UserError(f"{where}: the row lacks {', '.join(missing)}; see LongBench's row format")
    for field in ("input", "context", "_id", "language"):
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} must be text, not {type(row[field]).__name__}")
    length, classes = row["length"], row["all_classes"]
    if not (length is None or type(length) is int):
        raise UserError(f"{where}: length must be a whole number, not {length!r:.60}")
    if not (classes is None or isinstance(classes, list)):
        raise UserError(f"{where}: all_classes must be a list or null, not {classes!r:.60}")
    answers = row["answers"]
    if not (isinstance(answers, list) and answers and all(isinstance(a, str) for a in answers)):
        raise UserError(f"{where}: answers must be a list of at least one text")
    return Row(
        id=row["_id"],
        question=row["input"],
        context=row["context"],
        answers=answers,
        length=-1 if length is None else length,
        language=row["language"],
        all_classes=classes,
    )


def _listed(held: list[str]) -> str:
    return (", ".join(held[:24]) + (", …" if len(held) > 24 else "")) or "no jsonl file"
