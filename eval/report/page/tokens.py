"""Items to explore: chunks, what each method recomputed of them, and what it answered."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from data.inputs import Item
from eval.analysis.measures import method, rate
from eval.report.page.bars import run_name
from eval.report.page.texts import Texts, texts
from models.errors import UserError

ITEMS = 20
# Of the whole page: their texts are a few megabytes.
TOKENS = 400_000
KEPT = ("score", "kl_first", "kl_mean", "top1_agreement", "recomputed", "prediction", "selected")


class Explorer:
    """Makes the items of one group after another until the page holds enough tokens."""

    def __init__(self, found: Texts) -> None:
        self.texts = found
        self.left = TOKENS

    def items(self, results: Sequence[dict[str, Any]], ids: Sequence[str]) -> dict[str, Any]:
        """The first items of a group.

        Parameters
        ----------
        results : runs over the same items. ids : the page's names of them.

        Returns
        -------
        dict with ``items``, ``available`` and ``missing``: why there are no texts, or None.
        """
        first, missing = results[0], None
        rows: dict[str, Item] = {}
        try:
            rows = self.texts.items(first)
        except UserError as error:
            missing = f"{error}: tokens are shown by their places only"
        tokenizer = self.texts.tokenizer(first) if rows else None
        if rows and tokenizer is None:
            missing = "the model's tokenizer cannot be had: tokens are shown by their numbers"
        found = []
        for place, record in enumerate(first["items"][:ITEMS]):
            if self.left < record["tokens"]:
                break
            self.left -= record["tokens"]
            item = rows.get(record["id"])
            found.append(
                {
                    "id": record["id"],
                    "answers": record["answers"],
                    "documents": record["documents"],
                    **self._prompt(results, item, tokenizer),
                    **answers(results, ids, place),
                }
            )
        return {"items": found, "available": len(first["items"]), "missing": missing}

    def _prompt(
        self, results: Sequence[dict[str, Any]], item: Item | None, tokenizer: Any
    ) -> dict[str, Any]:
        """The item's question, segments and tokens, as far as they are known."""
        if item is None:
            return {"question": None, "spans": None, "tokens": None, "scores": {}}
        ids = item.prompt.ids
        return {
            "question": item.row["question"],
            "spans": [list(span) for span in item.prompt.segments],
            "tokens": texts(tokenizer, ids) if tokenizer else [f"{token} " for token in ids],
            "scores": self.texts.scores(results, item),
        }


def answers(results: Sequence[dict[str, Any]], ids: Sequence[str], place: int) -> dict[str, Any]:
    """What the full prefill and every run answered to one item, with what differs marked."""
    full = next(
        (r["items"][place]["prediction"] for r in results if r["config"]["method"] == "no"), None
    )
    runs = [
        {
            "run": name,
            "label": run_name(result) + "*" * result["oracle"],
            "method": method(result),
            "rate": rate(result),
            **{key: result["items"][place][key] for key in KEPT},
            "changes": None
            if full is None
            else changes(full, result["items"][place]["prediction"]),
        }
        for name, result in zip(ids, results, strict=True)
        if result["config"]["method"] != "no"
    ]
    return {"full": full, "full_score": results[0]["items"][place]["full_score"], "runs": runs}


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """Pieces of ``after``: ``same``, ``added``, and ``gone`` where ``before`` had something."""
    ours, theirs = (re.findall(r"\s+|[^\s]+", text) for text in (before, after))
    found = []
    for tag, a, b, c, d in difflib.SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            found.append(("same", "".join(theirs[c:d])))
            continue
        if b > a:
            found.append(("gone", "".join(ours[a:b])))
        if d > c:
            found.append(("added", "".join(theirs[c:d])))
    return found
