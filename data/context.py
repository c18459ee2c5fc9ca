"""What stands in front of a chunk when its KVs are captured: ``CONTEXT=``."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.sources import haystack
from models.errors import UserError
from models.prompt import Prompt

KINDS = ("sink", "prefix", "primed")
FORMS = "sink, prefix or primed:<tokens>[:corpus|:essay|:<text file>]"
RUN = 32  # so many tokens in a row, and two texts are taken to have a piece in common
TEXT = 1 << 20  # characters of a text that primers are taken from


@dataclass(frozen=True)
class Context:
    """A context as it was asked for.

    Attributes
    ----------
    kind : ``sink``, the first token of the prompt's header; ``prefix``, the item's own prefix;
        ``primed``, the prefix and other text, but for the first chunk the prefix alone.
    tokens : of other text. text : whence it is: ``corpus``, ``essay`` or a file's path.
    """

    kind: str = "sink"
    tokens: int = 0
    text: str = ""

    @classmethod
    def parse(cls, given: str) -> Context:
        """The context that ``CONTEXT=`` names; raises UserError for what is none."""
        kind, *rest = given.split(":", 2)
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"CONTEXT={given} is unknown: {hint}Give {FORMS}")
        if kind != "primed":
            if rest:
                raise UserError(f"CONTEXT={given}: {kind} takes nothing after it; give {FORMS}")
            return cls(kind)
        if not (rest and rest[0].isascii() and rest[0].isdigit() and int(rest[0])):
            raise UserError(f"CONTEXT={given}: say how many tokens, 1 or more: primed:256")
        text = rest[1] if len(rest) > 1 else "corpus"
        if text not in ("corpus", "essay"):
            path = Path(text).expanduser().resolve()
            if not text or not path.is_file():
                near = difflib.get_close_matches(text, ("corpus", "essay"), 1)
                hint = f"did you mean {near[0]}?" if near else "give corpus, essay or a text file"
                raise UserError(f"CONTEXT={given}: there is no file '{text}'; {hint}")
            text = str(path)
        return cls(kind, int(rest[0]), text)

    @property
    def label(self) -> str:
        """As it is named in tables: a file without its folder."""
        if self.kind != "primed":
            return self.kind
        return f"primed:{self.tokens}" + ("" if self.text == "corpus" else f":{self.source}")

    @property
    def source(self) -> str:
        """The text's name."""
        return Path(self.text).name

    def sources(
        self, corpus: Iterable[Sequence[int]], encode: Callable[[str], list[int]]
    ) -> Iterable[Sequence[int]]:
        """Texts that primers may be taken from, in order, as often as asked.

        Of the corpus each item's documents are one; of any other text each stretch as long as a
        primer, so that an item which holds the first takes the next. Essays follow the corpus, and
        are read where it does not reach.

        Parameters
        ----------
        corpus : tokens of each item's documents. encode : a text's tokens.

        Raises
        ------
        UserError : a text that cannot be read, or is shorter than a primer.
        """
        if self.kind != "primed":
            return []
        if self.text == "corpus":
            return _Chain(list(corpus), lambda: self._stretches("essay", encode))
        return self._stretches(self.text, encode)

    def _stretches(self, name: str, encode: Callable[[str], list[int]]) -> list[Sequence[int]]:
        text = haystack.load(None)[0] if name == "essay" else haystack.read(Path(name))
        ids = encode(text[:TEXT])
        starts = range(0, len(ids) - self.tokens + 1, self.tokens)
        if not starts:
            raise UserError(
                f"CONTEXT={self.label}: {Path(name).name} has {len(ids)} tokens; give at most so "
                "many"
            )
        return [ids[start : start + max(self.tokens, RUN)] for start in starts]

    def fronts(
        self, prompt: Prompt, sink: Sequence[int], sources: Iterable[Sequence[int]]
    ) -> tuple[tuple[int, ...], ...]:
        """Tokens in front of a prompt's segments; none for the sink alone.

        One for all of them, or two: the first chunk's and the others'. A primer stands before the
        others only: the first chunk has the prefix in front of it in every prompt, so behind that
        alone its KVs are exact. The sink stands for a prefix that is empty.

        Parameters
        ----------
        sources : see :meth:`sources`.

        Raises
        ------
        UserError : too little text that the prompt does not hold.
        """
        if self.kind == "sink":
            return ()
        head = prompt.ids[slice(*prompt.prefix)] or tuple(sink)
        if self.kind == "prefix":
            return (head,) if head else ()
        primed = (*head, *self._primer(prompt.ids[slice(*prompt.documents)], sources))
        return (head or primed, primed)

    def _primer(self, documents: Sequence[int], sources: Iterable[Sequence[int]]) -> list[int]:
        """The first tokens of the first sources that have no piece in common with the documents."""
        found: list[int] = []
        held = frozenset(_runs(documents, RUN))
        for source in sources:
            room = self.tokens - len(found)
            piece = source[: max(room, RUN)]
            own = held if len(piece) >= RUN else frozenset(_runs(documents, len(piece)))
            if own.isdisjoint(_runs(piece, min(RUN, len(piece)))):
                found += piece[:room]
            if len(found) == self.tokens:
                break
        if len(found) < self.tokens:
            raise UserError(
                f"CONTEXT={self.label}: what an item does not hold itself of {self.source} makes "
                f"{len(found)} tokens; give fewer, or more items, or other text"
            )
        return found


class _Chain:
    """Texts, and others behind them that are made when they are reached."""

    def __init__(self, first: list[Sequence[int]], more: Callable[[], list[Sequence[int]]]) -> None:
        self.first = first
        self.more = cache(more)

    def __iter__(self) -> Iterator[Sequence[int]]:
        yield from self.first
        yield from self.more()


def _runs(ids: Sequence[int], length: int) -> Iterator[bytes]:
    """All stretches of so many tokens."""
    packed = array("I", ids).tobytes()
    width = array("I").itemsize
    for start in range(len(ids) - length + 1 if length else 0):
        yield packed[start * width : (start + length) * width]
