"""HotpotQA dev (distractor setting) from the data pack, as rows in LongBench's schema."""

import json
from typing import Any

from data.packs import pack_file
from models.errors import UserError

PACK_FILE = "hotpotqa.json"


def from_pack(dataset: str, limit: int | None = None) -> tuple[list[dict], int, str]:
    """The first `limit` questions as rows, how many the pack holds, and the pack's file.

    A row's context lists the question's paragraphs (mostly ten, two of them gold) in the pack's
    order as `Passage <n>:`, title and text. Raises UserError where the pack is missing or damaged.
    """
    path = pack_file(PACK_FILE)
    try:
        questions = json.loads(path.read_bytes())
        rows = [_row(question, dataset) for question in questions[:limit]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not HotpotQA as expected ({reason}); delete .venv and run: make setup"
        ) from None
    return rows, len(questions), str(path)


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
