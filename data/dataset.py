"""A dataset: how its rows are asked and how its answers are scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Dataset:
    """How one benchmark task, or somebody's own file, is prompted and scored.

    The prompt is `instruction + context + ask(input)`. `version` rises when a change to the entry
    would change a score. `source` says which reader finds the rows. `chat` is whether the prompt
    is wrapped in the model's chat template. `max_new_tokens` bounds the answer, `metric` names an
    entry of `eval.metrics.scores.METRICS` (None: nothing is scored), `first_line` scores only the
    answer's first line. `language` decides how answers are cut into words: "auto" asks the answers.
    `passage_pattern` is a regular expression (multi-line mode) for the start of a passage, None
    where there are none.

    `suite` is the benchmark that the task belongs to and `group` its part of it, for averages.
    `answer_prefix` begins the answer for the model, after the chat footer. `extra_metrics` are
    recorded beside the score. `parameters` are those of the rows' generator.
    """

    name: str
    version: int
    source: str
    language: str
    chat: bool
    instruction: str
    question: str
    max_new_tokens: int
    metric: str | None
    first_line: bool
    passage_pattern: str | None
    suite: str = ""
    group: str = ""
    answer_prefix: str = ""
    extra_metrics: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    def ask(self, text: str) -> str:
        """The prompt's part after the context, with `text` (a row's `input`) put in its place."""
        return self.question.replace("{input}", text)

    def begin(self, text: str) -> str:
        """How the model's answer begins, with `text` (a row's `input`) put in its place."""
        return self.answer_prefix.replace("{input}", text)
