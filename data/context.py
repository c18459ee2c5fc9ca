"""What stands in front of a chunk when its KVs are captured: ``CONTEXT=``."""

from __future__ import annotations

import difflib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.sources import haystack
from models.errors import UserError
from models.paths import user_path
from models.prompt import Prompt

KINDS = ("sink", "prefix", "primed", "related")
FORMS = "sink, prefix, primed:<tokens>[:corpus|:essay|:<text file>] or related:<tokens>"
RUN = 32  # so many tokens in a row, and two texts are taken to have a piece in common
TEXT = 1 << 20  # characters of a text that primers are taken from


@dataclass(frozen=True)
class Context:
    """A context as it was asked for.

    Attributes
    ----------
    kind : ``sink``, the first token of the prompt's header; ``prefix``, the item's own prefix;
        ``primed``, the prefix and other text, but for the first chunk the prefix alone;
        ``related``, the prefix and the item's own chunks that are most like the one behind them.
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
        if kind in ("sink", "prefix"):
            if rest:
                raise UserError(f"CONTEXT={given}: {kind} takes nothing after it; give {FORMS}")
            return cls(kind)
        if not (rest and rest[0].isascii() and rest[0].isdigit() and int(rest[0])):
            raise UserError(f"CONTEXT={given}: say how many tokens, 1 or more: {kind}:256")
        if kind == "related":
            if len(rest) > 1:
                raise UserError(f"CONTEXT={given}: related takes tokens alone; give {FORMS}")
            return cls(kind, int(rest[0]))
        text = rest[1] if len(rest) > 1 else "corpus"
        if text not in ("corpus", "essay"):
            path = user_path(text, f"CONTEXT={kind}:{rest[0]}:").resolve()
            if not text or not path.is_file():
                near = difflib.get_close_matches(text, ("corpus", "essay"), 1)
                hint = f"did you mean {near[0]}?" if near else "give corpus, essay or a text file"
                raise UserError(f"CONTEXT={given}: there is no file '{text}'; {hint}")
            text = str(path)
        return cls(kind, int(rest[0]), text)

    @property
    def label(self) -> str:
        """As it is named in tables: a file without its folder."""
        if self.kind == "related":
            return f"related:{self.tokens}"
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

        The first chunk's, the next one's and so on; the last are for all that are left. A primer
        stands before all chunks but the first: that one has the prefix in front of it in every
        prompt, so behind that alone its KVs are exact. The sink stands for a prefix that is empty.
        The question is no chunk that others are like: of ``related`` it gets the prefix only.

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
        if self.kind == "related":
            chunks = [prompt.ids[slice(*span)] for span in prompt.chunks]
            return (*((*head, *text) for text in related(chunks, self.tokens)), head)
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


def related(chunks: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """For each chunk so many tokens of the others, the most similar first, each from its beginning.

    Fewer where the others hold no more. Similarity is the cosine of token counts, each weighed by
    log(1 + n / number of chunks that hold it); ties go to the earlier chunk.

    After FusionRAG (Wang et al., 2026, arXiv:2601.12904), which encodes every chunk of a knowledge
    base behind those most similar to it, by an embedding model. Here the knowledge base is the
    item's own documents, so that what stands in front is of the prompt that it will be used in.
    """
    holding = Counter(token for chunk in chunks for token in set(chunk))
    weighed = [
        {t: n * math.log1p(len(chunks) / holding[t]) for t, n in Counter(chunk).items()}
        for chunk in chunks
    ]
    lengths = [math.hypot(*vector.values()) for vector in weighed]

    def likeness(a: int, b: int) -> float:
        shared = weighed[a].keys() & weighed[b].keys()
        product = math.fsum(weighed[a][t] * weighed[b][t] for t in shared)
        return product / (lengths[a] * lengths[b]) if product else 0.0

    found = []
    for i in range(len(chunks)):
        others = [j for j in range(len(chunks)) if j != i]
        others.sort(key=lambda j, i=i: (-likeness(i, j), j))  # type: ignore[misc]
        found.append([token for j in others for token in chunks[j]][:tokens])
    return found


def _runs(ids: Sequence[int], length: int) -> Iterator[bytes]:
    """All stretches of so many tokens."""
    packed = array("I", ids).tobytes()
    width = array("I").itemsize
    for start in range(len(ids) - length + 1 if length else 0):
        yield packed[start * width : (start + length) * width]
