"""Rows of one's own: a table, a folder of tables or of texts, or a data set of the hub.

Nothing is asked for that has a sensible default. Columns are found by their usual names, ids are
the rows' own or their numbers, and rows without answers are measured and not scored. In a folder
of texts with one table of questions, a row may name its texts (documents, file, files …); where
it names none, all texts serve it, in the order of their names.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from data.dataset import Dataset
from data.sources.own import files, hub, prompt
from data.sources.own.reader import digest, read
from models.errors import UserError

__all__ = ["OwnOptions", "digest", "entry", "is_place", "read"]

MAX_NEW_TOKENS = 64
METRIC = "qa_f1"
# Metrics of LongBench's rows: they need a row's classes, or the number of one of its paragraphs.
FOREIGN = ("classification", "retrieval", "retrieval_zh")
# Documents are passages; where a row has one context, its paragraphs are.
PARAGRAPH = r"(?<=\n\n)\S"


@dataclass(frozen=True)
class OwnOptions:
    """What may be said about a file of one's own; None is the default.

    Attributes
    ----------
    question, documents, answers : the column's name, where it is none of the usual.
    prompt : a text with ``{context}`` and ``{question}``, or a file that holds one.
    metric : of `eval.metrics.scores.METRICS`, or ``none``; token F1 by default.
    max_new_tokens : of an answer, 64 by default.
    """

    question: str | None = None
    documents: str | None = None
    answers: str | None = None
    prompt: str | None = None
    metric: str | None = None
    max_new_tokens: int | None = None


def is_place(name: str) -> bool:
    """Whether a name is that of a file, a folder or a data set of the hub, perhaps a missing one.

    A folder here may be called like a dataset; `data.datasets.is_own` asks for that too.
    """
    return bool(name) and (
        name.startswith(hub.PREFIX)
        or files.kind(Path(name)) in files.TABLES
        or os.path.exists(os.path.expanduser(name))
    )


def entry(name: str, options: OwnOptions | None = None) -> Dataset:
    """The dataset that a place is: its name is the place's, and a hash of where it lies.

    Nothing is read but the prompt's file. Raises UserError for options that do not serve.
    """
    options = options or OwnOptions()
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise UserError(f"MAX_NEW_TOKENS={options.max_new_tokens} must be at least 1")
    if options.metric in FOREIGN:
        raise UserError(
            f"METRIC={options.metric} needs what only LongBench's rows have; give another, such as "
            f"{METRIC}, or none"
        )
    on_hub = name.startswith(hub.PREFIX)
    place = name if on_hub else os.path.abspath(os.path.expanduser(name))
    stem = name.removeprefix(hub.PREFIX) if on_hub else Path(place).name.split(".")[0]
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "own"
    instruction, question = prompt.split(options.prompt)
    scored = options.metric != "none"
    return Dataset(
        name=f"{safe}-{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}",
        version=1,
        source="own",
        language="auto",
        chat=True,
        instruction=instruction,
        question=question,
        max_new_tokens=options.max_new_tokens or MAX_NEW_TOKENS,
        metric=(options.metric or METRIC) if scored else None,
        first_line=False,
        passage_pattern=PARAGRAPH,
        parameters={
            "place": place,
            "question": options.question,
            "documents": options.documents,
            "answers": options.answers,
            "needs_answers": scored and options.metric is not None,
        },
    )
