"""Rows of a dataset, from whichever source it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from data.dataset import Dataset
from data.hashing import combine
from data.request import Request
from data.row import Rows
from data.sources import hotpotqa, longbench, needle, own, ruler
from models.errors import UserError


class Source(Protocol):
    """A module that reads or makes rows."""

    def read(self, dataset: Dataset, request: Request) -> Rows:
        """The rows that `request` asks for; UserError where they cannot be had."""

    def digest(self, dataset: Dataset, request: Request) -> str:
        """A hash of all that the rows come from, but `LIMIT`, `SKIP`, tokenizer and program."""


SOURCES: dict[str, Source] = {
    "longbench": longbench,
    "hotpotqa_pack": hotpotqa,
    "needle": needle,
    "ruler": ruler,
    "own": own,
}


def load_rows(dataset: Dataset, request: Request) -> Rows:
    """The rows of `dataset` that `request` asks for, from its source.

    Raises UserError for a place that lacks them, a bad row, or settings that do not serve.
    """
    if not request.skip:
        return SOURCES[dataset.source].read(dataset, request)
    found = SOURCES[dataset.source].read(dataset, replace(request, limit=request.reach, skip=0))
    if len(found.rows) <= request.skip:
        raise UserError(
            f"SKIP={request.skip} leaves nothing of {dataset.name}, which has "
            f"{found.available} rows"
        )
    return replace(found, rows=found.rows[request.skip :])


def digest(dataset: Dataset, request: Request) -> str:
    """16 hex over all that the rows come from: another digest, perhaps other rows.

    Files count by their bytes, generated rows by their settings and texts, the hub by revision.
    ``LIMIT``, ``SKIP``, the tokenizer and this program are no part of it. Raises what `load_rows`
    raises where there is no such place.
    """
    source = SOURCES[dataset.source]
    return combine(dataset.name, dataset.source, source.digest(dataset, request))
