"""One generated row in the making: where its randomness comes from, and what may be resized."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from data.dataset import Dataset


@dataclass(frozen=True)
class Sample:
    """A row's own part of the prompt. `depth` is the needle's place in percent of the context."""

    context: str
    input: str
    answers: list[str]
    depth: int | None = None


@dataclass(frozen=True)
class Draft:
    """A row of which only the size of its haystack is open.

    `build(size)` gives the same sample for the same size; more units make a longer context.
    `smallest` and `largest` bound the size (None: no end). `rate` is a guess at a unit's tokens.
    """

    build: Callable[[int], Sample]
    rate: float
    smallest: int = 0
    largest: int | None = None


@dataclass(frozen=True)
class Cell:
    """The row `index` of `dataset` at `length` tokens, and the seed that all of it follows from.

    Another `attempt` is the same place with other contents.
    """

    dataset: Dataset
    length: int
    index: int
    seed: int
    haystack: str | None = None
    attempt: int = 0

    def stream(self, *labels: object) -> random.Random:
        """A generator of this row's own; other labels, other numbers."""
        return self.shared("row", self.index, self.attempt, *labels)

    def shared(self, *labels: object) -> random.Random:
        """A generator common to all rows of the task at this length."""
        parts = (self.seed, self.dataset.name, self.length, *labels)
        return random.Random("/".join(map(str, parts)))


def with_example(dataset: Dataset, example: Sample, answer: str, context: str) -> str:
    """A context that begins with a solved example of the same task.

    The prompt's instruction becomes the example's, and the context brings its own.
    """
    begun = dataset.begin(example.input)
    solved = example.context + dataset.ask(example.input) + begun + answer
    return solved + dataset.instruction + context
