"""Where the segments of a prompt lie: prefix, chunks, question."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

Span = tuple[int, int]


class Headers(NamedTuple):
    """What stood in front of a prompt's chunks when these were captured.

    Attributes
    ----------
    lengths : tokens in front of the first chunk, of the second and so on; the last counts for all
        that are left.
    exact : what stood before the first chunk stands there in the prompt, and nothing was lost on
        disk: its KVs are the prompt's.
    """

    lengths: tuple[int, ...] = (0,)
    exact: bool = False

    @classmethod
    def of(cls, prompt: Prompt, sink: Sequence[int], fronts: Sequence[Sequence[int]]) -> Headers:
        """Of a capture behind ``fronts``, or behind the ``sink`` where there are none.

        What begins the prompt is captured without a header, whatever the others have.
        """
        before = fronts or (sink,)
        exact = prompt.prefix[1] == 0 or tuple(before[0]) == prompt.ids[slice(*prompt.prefix)]
        return cls(tuple(map(len, before)), exact)

    def before(self, chunk: int) -> int:
        """Tokens in front of a chunk, counted from 0."""
        return self.lengths[min(chunk, len(self.lengths) - 1)]


@dataclass(frozen=True)
class Prompt:
    """The assembled prompt of one item.

    Attributes
    ----------
    ids : token ids of the whole prompt, length ``N``.
    prefix, question : ``[start, end)`` of the first and the last segment (the prefix may be empty).
    chunks : ``[start, end)`` of each chunk, in order.
    """

    ids: tuple[int, ...]
    prefix: Span
    chunks: tuple[Span, ...]
    question: Span

    def __post_init__(self) -> None:
        spans = self.segments
        if any(end != start for (_, end), (start, _) in pairwise(spans)):
            raise ValueError(f"segments must follow each other without gaps: {spans}")
        if spans[0][0] != 0 or spans[-1][1] != len(self.ids):
            raise ValueError(f"segments {spans} must cover all {len(self.ids)} tokens")
        if self.question[0] == self.question[1]:
            raise ValueError("the question must hold at least one token")

    @classmethod
    def join(
        cls, prefix: Sequence[int], chunks: Sequence[Sequence[int]], question: Sequence[int]
    ) -> Prompt:
        """Lay the segments' token ids side by side."""
        ids: list[int] = []
        spans: list[Span] = []
        for segment in (prefix, *chunks, question):
            spans.append((len(ids), len(ids) + len(segment)))
            ids.extend(segment)
        return cls(tuple(ids), spans[0], tuple(spans[1:-1]), spans[-1])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def segments(self) -> tuple[Span, ...]:
        """Prefix, chunks and question, in prompt order."""
        return (self.prefix, *self.chunks, self.question)

    @property
    def documents(self) -> Span:
        """``[start, end)`` of all chunks together: the positions that a selector may choose."""
        return self.prefix[1], self.question[0]

    def budget(self, rate: float) -> int:
        """``k = min(|S|, floor(|S|·r))``; the epsilon keeps 0.29·100 from becoming 28."""
        size = self.documents[1] - self.documents[0]
        return min(size, int(size * rate + 1e-9))

    def sha256(self) -> str:
        """Fingerprint of the token ids."""
        return hashlib.sha256(array("q", self.ids).tobytes()).hexdigest()
