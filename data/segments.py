"""How a row becomes token segments: prefix, chunks, question; split and truncated by tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from data.dataset import Dataset
from data.row import Row
from models.errors import UserError
from models.load.tokenizer import Frame, encode
from models.prompt import Prompt

CHUNKINGS = ("token", "passage")


@dataclass(frozen=True)
class Splitting:
    """Settings that decide which tokens a prompt has and where its chunks end.

    Attributes
    ----------
    chunking : ``token`` (pieces of ``chunk_size`` tokens) or ``passage`` (one chunk a passage).
    max_length : tokens of a whole prompt at most; a longer context loses its middle.
    chat : whether the model's chat template frames the prompt.
    """

    chunking: str
    chunk_size: int
    max_length: int
    chat: bool

    def __post_init__(self) -> None:
        if self.chunking not in CHUNKINGS:
            raise UserError(f"CHUNKING={self.chunking} is unknown: use {' or '.join(CHUNKINGS)}")
        if self.chunk_size < 1:
            raise UserError(f"CHUNK_SIZE={self.chunk_size} must be at least 1")


class Split(NamedTuple):
    """A row's prompt, and how many tokens of its context had to go."""

    prompt: Prompt
    lost: int


class Splitter:
    """Turns rows of one dataset into prompts for one tokenizer.

    Segments are encoded one by one and their ids are kept, so that what is counted, what is cached
    and what the full prefill reads are the same tokens.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        frame: Frame,
        settings: Splitting,
    ) -> None:
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.frame = frame
        self.settings = settings
        self.prefix = encode(tokenizer, frame.header_text + dataset.instruction)
        if settings.chunking == "passage" and dataset.passage_pattern is None:
            raise UserError(f"{dataset.name} has no passages: use CHUNKING=token")

    def prompt(self, row: Row) -> Prompt:
        """The row's prompt, at most ``max_length`` tokens long; raises what `split` raises."""
        return self.split(row).prompt

    def split(self, row: Row) -> Split:
        """The row's prompt and what was cut out of it.

        Raises
        ------
        UserError : even without any context the question does not fit.
        """
        question = self._question(row)
        room = self.settings.max_length - len(self.prefix) - len(question)
        if room < 0:
            raise UserError(
                f"{self.dataset.name} item {row.id}: instruction and question alone take "
                f"{len(self.prefix) + len(question)} tokens, more than MAX_LENGTH allows; raise it"
            )
        pieces = [encode(self.tokenizer, text, foreign=True) for text in self._texts(row)]
        lost = max(0, sum(map(len, pieces)) - room)
        pieces = drop_middle(pieces, room)
        if self.settings.chunking == "token":
            pieces = [chunk for piece in pieces for chunk in self._cut(piece)]
        return Split(Prompt.join(self.prefix, pieces, question), lost)

    def measure(self, row: Row) -> int:
        """Tokens of the row's whole prompt, nothing cut out of its context."""
        texts = row.documents or (row.context,)
        context = sum(len(encode(self.tokenizer, text, foreign=True)) for text in texts)
        return len(self.prefix) + context + len(self._question(row))

    def _question(self, row: Row) -> list[int]:
        """The question, the end of the user's turn, and what the answer begins with."""
        asked = encode(self.tokenizer, self.dataset.ask(row.question), foreign=True)
        begun = encode(self.tokenizer, self.dataset.begin(row.question), foreign=True)
        return asked + self.frame.footer + begun

    def _texts(self, row: Row) -> list[str]:
        """Its documents; else its context as one text, or passage by passage.

        What precedes the first passage is one too.
        """
        if row.documents:
            return list(row.documents)
        context = row.context
        if self.settings.chunking == "token" or not context:
            return [context]
        starts = re.finditer(self.dataset.passage_pattern or "", context, re.MULTILINE)
        cuts = sorted({0, *(match.start() for match in starts), len(context)})
        return [context[a:b] for a, b in pairwise(cuts)]

    def _cut(self, ids: list[int]) -> list[list[int]]:
        size = self.settings.chunk_size
        return [ids[start : start + size] for start in range(0, len(ids), size)]


def drop_middle(pieces: list[list[int]], room: int) -> list[list[int]]:
    """Cut the middle out of the pieces' tokens until ``room`` are left; empty pieces go.

    LongBench truncates so: the head and the tail of a document say more than its middle.
    """
    total = sum(map(len, pieces))
    first, last = (room + 1) // 2, total - room // 2
    kept, offset = [], 0
    for piece in pieces:
        if total > room:
            head = piece[: max(0, first - offset)]
            tail = piece[max(0, last - offset) :]
            kept.append(head + tail if len(head) + len(tail) < len(piece) else piece)
        else:
            kept.append(piece)
        offset += len(piece)
    return [piece for piece in kept if piece]
