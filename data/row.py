"""A row: one question on a context, whatever benchmark or file it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One question, the context to answer it from, and the answers that count as right.

    Attributes
    ----------
    id : unlike every other row's of the dataset.
    context : the whole text; of `documents`, where there are any, joined.
    documents : texts that are chunked each by itself, in order; empty where there is one context.
    answers : references, any of which is right; empty where none is known.
    length : words of question, context and answers, as LongBench counts; counted if not given.
    all_classes : the labels of a classification.
    details : what scores are broken down by: needle's depth and context_length, RULER's task.

    Raises
    ------
    ValueError : a context that is not its documents joined.
    """

    id: str
    question: str
    context: str = ""
    documents: tuple[str, ...] = ()
    answers: list[str] = field(default_factory=list)
    length: int = -1
    language: str = "en"
    all_classes: list[str] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.documents:
            joined = "".join(self.documents)
            if not self.context:
                object.__setattr__(self, "context", joined)
            elif self.context != joined:
                raise ValueError(f"row {self.id}: the context is not its documents joined")
        if self.length < 0:
            words = f"{self.question} {self.context} {' '.join(self.answers)}".split()
            object.__setattr__(self, "length", len(words))


@dataclass(frozen=True)
class Rows:
    """Rows and where they came from.

    `source` is "folder", "hub", "data pack", "generator", "file" or "built-in sample"; `where` is
    the file, or the hub repository and revision; `available` counts the rows there, uncut by
    `LIMIT`.
    """

    rows: list[Row]
    source: str
    where: str
    is_sample: bool
    available: int
