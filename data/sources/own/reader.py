"""From a place to rows: its tables' columns chosen, its cells read, its ids made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from data.dataset import Dataset
from data.hashing import combine, file_digest
from data.request import Request
from data.row import Row, Rows
from data.sources.own import cells, files, hub
from data.sources.own.columns import Columns, choose
from data.sources.own.files import Record, Table
from data.sources.own.texts import Texts
from models.errors import UserError

SEPARATOR = "\n\n"


class Opened(NamedTuple):
    """A place's tables, the texts of a folder that has some, and what to say of the place."""

    tables: list[Table]
    texts: Texts | None
    source: str
    where: str


def read(dataset: Dataset, request: Request) -> Rows:
    """The place's first `request.limit` rows; `where` tells the columns they are read from.

    Raises UserError, naming file and row, for a place, a column or a cell that does not serve.
    """
    opened = _open(_place(dataset))
    tables, texts, where = opened.tables, opened.texts, opened.where
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    columns = choose(names, dataset.parameters, where, texts is not None)
    if dataset.parameters.get("needs_answers") and columns.answers is None:
        raise UserError(
            f"{where} has no column of answers to score with METRIC={dataset.metric}; its columns: "
            f"{', '.join(names)}; name one with ANSWERS="
        )
    ids = _ids(tables, columns)
    records = chain.from_iterable(_records(table, columns) for table in tables)
    rows = [
        _row(name, record, columns, texts, dataset.language)
        for name, record in islice(zip(ids, records, strict=True), request.limit)
    ]
    return Rows(rows, opened.source, f"{where} ({', '.join(columns.read)})", False, len(ids))


def digest(dataset: Dataset, request: Request) -> str:
    """A hash of the files' names and bytes or the hub's revision, the columns and the prompt."""
    place = _place(dataset)
    said = {name: value for name, value in dataset.parameters.items() if name != "place"}
    template = [dataset.instruction, dataset.question, dataset.answer_prefix]
    if place.startswith(hub.PREFIX):
        return combine(hub.fetch(place).where, said, template)
    found = files.listing(Path(place))
    held = [
        [os.path.relpath(path, os.path.dirname(place)), file_digest(path)]
        for path in (*found.tables, *found.texts)
    ]
    return combine(held, said, template)


def _place(dataset: Dataset) -> str:
    place = dataset.parameters.get("place")
    if not isinstance(place, str):
        raise UserError(f"{dataset.name}: parameters: place must name a file or a folder")
    return place


def _open(place: str) -> Opened:
    if place.startswith(hub.PREFIX):
        path, where = hub.fetch(place)
        return Opened([files.parquet(path, where)], None, "hub", where)
    found = files.listing(Path(place))
    texts = Texts(Path(place), found.texts) if found.texts else None
    source = "folder" if os.path.isdir(place) else "file"
    return Opened([files.read(path) for path in found.tables], texts, source, place)


def _records(table: Table, columns: Columns) -> Iterator[Record]:
    """Places and cells; a CSV's lists are read back from how they are printed."""
    lists = [name for name in columns.read if table.printed and name != columns.question]
    for where, held in table.select(columns.read):
        found = dict(held)
        for name in lists:
            with _named(where, name):
                found[name] = cells.unprinted(held.get(name) or "")
        yield where, found


def _ids(tables: list[Table], columns: Columns) -> list[str]:
    """The first id column in which every row has a name of its own, else the rows' numbers.

    All rows are looked at, so that an id does not depend on ``LIMIT``.
    """
    for column in columns.ids:
        found = [held.get(column) for table in tables for _, held in table.select([column])]
        if all(isinstance(name, (str, int)) and not cells.missing(name) for name in found):
            names = [str(name) for name in found]
            if len(set(names)) == len(names):
                return names
    return [str(number) for number in range(1, sum(map(len, tables)) + 1)]


def _row(name: str, record: Record, columns: Columns, texts: Texts | None, language: str) -> Row:
    where, held = record
    with _named(where, columns.question):
        question = cells.text(_full(held.get(columns.question), "a question")).strip()
    with _named(where, columns.documents):
        shown = held.get(columns.documents) if columns.documents else None
        found = texts.named(shown) if texts else cells.documents(shown)
        documents = _full(found, "a document")
    answers = []
    for column in filter(None, (columns.answers, columns.aliases)):
        with _named(where, column):
            answers += cells.answers(held.get(column))
    answers = list(dict.fromkeys(answers))
    if isinstance(documents, str):
        return Row(name, question, documents, answers=answers, language=language)
    context, parts = _parted(tuple(documents))
    return Row(name, question, context, parts, answers, language=language)


@lru_cache(maxsize=8)
def _parted(documents: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Them joined, and each with what parts it from the next: one copy for all that share them."""
    *before, last = documents
    parts = (*(f"{text}{SEPARATOR}" for text in before), last)
    return "".join(parts), parts


def _full(value: Any, what: str) -> Any:
    if cells.missing(value) or value == []:
        raise ValueError(f"is empty; every row needs {what}")
    return value


@contextlib.contextmanager
def _named(where: str, column: str | None) -> Iterator[None]:
    """Tell of a bad cell by its file, row and column."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{where}: {column} {error}") from None
    except RecursionError:
        raise UserError(f"{where}: {column} is nested too deeply; flatten it") from None
