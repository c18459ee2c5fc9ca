"""Files of one's own: tables of rows, and folders of text that questions are about.

JSON and CSV are read by the standard library, cell by cell as they stand: read through Arrow or
pandas, a date that is an answer becomes a timestamp, 1 beside 2.5 becomes 1.0, and a comma too many
shifts a CSV's columns without a word. Parquet has types of its own and comes through `datasets`.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data.jsonl import content, objects
from data.sources.own.library import quietly, reason
from models.errors import UserError
from models.load.source import cache_dir
from models.sealed import parse

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXTS = (".txt", ".md")
_PACKED = (".gz", ".xz", ".bz2")
# Where a JSON file that is one object keeps its rows.
_WRAPPERS = ("data", "rows", "questions", "examples")

Record = tuple[str, dict[str, Any]]


class Table(Protocol):
    """Rows with named columns."""

    @property
    def columns(self) -> list[str]:
        """Their names, in order."""

    @property
    def printed(self) -> bool:
        """Whether lists stand there as printed text."""

    def __len__(self) -> int:
        """How many rows there are."""

    def select(self, columns: Sequence[str]) -> Iterable[Record]:
        """Every row's place and cells, those of `columns` at least."""


@dataclass(frozen=True)
class Records:
    """A table in memory."""

    records: list[Record]
    printed: bool = False

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for _, cells in self.records for name in cells))

    def __len__(self) -> int:
        return len(self.records)

    def select(self, columns: Sequence[str]) -> Iterable[Record]:
        return self.records


@dataclass(frozen=True)
class Arrow:
    """A table of the library `datasets`, whose other columns are not even decoded."""

    data: Any
    where: str
    printed: bool = False

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)

    def __len__(self) -> int:
        return len(self.data)

    def select(self, columns: Sequence[str]) -> Iterable[Record]:
        held = [name for name in columns if name in self.data.column_names]
        rows = self.data.select_columns(held) if held else ({} for _ in range(len(self)))
        for number, cells in enumerate(rows, 1):
            yield f"{self.where}, row {number}", cells


@dataclass(frozen=True)
class Listing:
    """The tables of a place, and its texts where the place is a folder that has some."""

    tables: list[Path]
    texts: list[Path]


def kind(path: Path) -> str:
    """What a file holds, by its name: its ending in lower case, without that of a compression."""
    return Path(path.stem if path.suffix in _PACKED else path.name).suffix.lower()


def listing(place: Path) -> Listing:
    """The files that a place's rows come from, in the order of their names; hidden ones are not.

    A place is a table, a folder of tables, or a folder of texts with one table of questions.
    Raises UserError for anything else.
    """
    if place.is_file():
        if kind(place) in TABLES:
            return Listing([place], [])
        raise UserError(
            f"{place} is no table ({', '.join(TABLES)}, or one of them packed as "
            f"{', '.join(_PACKED)}); put texts into a folder, with a file of questions"
        )
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder; mend DATASET=")
    inside = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    shown = sorted(p for p in inside if not any(part.startswith(".") for part in p.parts))
    tables = [place / path for path in shown if kind(path) in TABLES]
    texts = [place / path for path in shown if path.suffix.lower() in TEXTS]
    if not tables:
        lack = "texts and no file of questions" if texts else "neither questions nor texts"
        raise UserError(f"{place} holds {lack}; add one, such as questions.jsonl")
    if texts and len(tables) > 1:
        named = ", ".join(path.name for path in tables[:5])
        raise UserError(
            f"{place} holds texts and {len(tables)} tables ({named}); keep one, with the questions"
        )
    return Listing(tables, texts)


def read(path: Path) -> Table:
    """A file's rows; raises UserError, naming the row, where it is not what its name says."""
    form = kind(path)
    if form == ".parquet":
        return parquet(path, str(path))
    if form in (".csv", ".tsv"):
        found = _separated(path, "\t" if form == ".tsv" else ",")
    else:
        found = Records(_json(path) if form == ".json" else _lines(path, content(path, _MEND)))
    if not len(found):
        raise UserError(f"{path} holds no rows")
    return found


def parquet(path: Path, where: str) -> Arrow:
    """A Parquet file's rows, its content read anew whatever the library has kept."""
    folder = cache_dir() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh, quietly() as datasets:
        try:
            data = datasets.Dataset.from_parquet(
                os.fspath(path), cache_dir=fresh, keep_in_memory=True
            )
        except Exception as error:  # noqa: BLE001  the library raises Arrow's errors and its own
            raise UserError(f"{path} cannot be read as Parquet ({reason(error)})") from None
    if not len(data):
        raise UserError(f"{path} holds no rows")
    return Arrow(data, where)


_MEND = "mend the file"


def _lines(path: Path, held: bytes) -> list[Record]:
    found = objects(io.BytesIO(held), str(path), _MEND, "row")
    return [(where, cells) for cells, where in found]


def _json(path: Path) -> list[Record]:
    """A list of objects, an object that wraps one, or one object a line whatever the name says."""
    held = content(path, _MEND)
    try:
        found = parse(held.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    except ValueError as error:
        if str(error).startswith("Extra data"):
            return _lines(path, held)
        raise UserError(f"{path}: not JSON, or cut short ({error}); {_MEND}") from None
    if isinstance(found, dict):
        lists = [found[key] for key in _WRAPPERS if isinstance(found.get(key), list)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise UserError(f"{path}: neither a list of rows nor one row; {_MEND}")
    found = _questions(found)
    for number, cells in enumerate(found, 1):
        if not isinstance(cells, dict):
            raise UserError(f"{path}, row {number}: not a JSON object; every row must be one")
    return [(f"{path}, row {number}", cells) for number, cells in enumerate(found, 1)]


def _questions(articles: list[Any]) -> list[Any]:
    """The questions of articles nested as in SQuAD's own files; any other list as it is."""
    try:
        return [
            {
                **{name: cell for name, cell in asked.items() if name != "answers"},
                "context": paragraph["context"],
                "answers": [answer["text"] for answer in asked["answers"]],
            }
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (KeyError, TypeError):
        return articles


def _separated(path: Path, separator: str) -> Records:
    try:
        held = content(path, _MEND).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    csv.field_size_limit(2**31 - 1)  # a document is longer than the 128 KiB that csv expects
    reader = csv.reader(io.StringIO(held, newline=""), delimiter=separator, strict=True)
    records: list[Record] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise UserError(f"{path}: two columns are called {twice[0]!r}; rename one")
        for cells in filter(None, reader):
            where = f"{path}, row {len(records) + 1}"
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; put quotes around "
                    f"a cell that holds {separator!r}"
                )
            records.append((where, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; {_MEND}") from None
    return Records(records, printed=True)
