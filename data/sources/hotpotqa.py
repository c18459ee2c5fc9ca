"""HotpotQA dev (distractor setting) from the data pack, its contexts in LongBench's layout."""

from __future__ import annotations

import json
from typing import Any

from data.dataset import Dataset
from data.hashing import combine, file_digest
from data.packs import pack_file
from data.request import Request
from data.row import Row, Rows
from models.errors import UserError

PACK_FILE = "hotpotqa.json"


def read(dataset: Dataset, request: Request) -> Rows:
    """The first `request.limit` questions of the pack."""
    rows, available, where = from_pack(request.limit)
    return Rows(rows, "data pack", where, False, available)


def digest(dataset: Dataset, request: Request) -> str:
    """A hash of the pack's file."""
    return combine(file_digest(pack_file(PACK_FILE)))


def from_pack(limit: int | None = None) -> tuple[list[Row], int, str]:
    """The first `limit` questions as rows, how many the pack holds, and the pack's file.

    A row's context lists the question's paragraphs (mostly ten, two of them gold) in the pack's
    order as `Passage <n>:`, title and text. Raises UserError where the pack is missing or damaged.
    """
    path = pack_file(PACK_FILE)
    try:
        questions = json.loads(path.read_bytes())
        rows = [_row(question) for question in questions[:limit]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not HotpotQA as expected ({reason}); delete .venv and run: make setup"
        ) from None
    return rows, len(questions), str(path)


def _row(question: dict[str, Any]) -> Row:
    passages = [
        f"Passage {number}:\n{title}\n{''.join(sentences).strip()}"
        for number, (title, sentences) in enumerate(question["context"], 1)
    ]
    return Row(
        question["_id"], question["question"], "\n".join(passages), answers=[question["answer"]]
    )
