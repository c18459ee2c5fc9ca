"""What stage 2 builds in each layout: whole items, or chunks that items share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Protocol

from data.inputs import Item
from models import codecs
from models.errors import UserError
from models.kv import store
from models.kv.capture import capture, encode
from models.kv.chunked import ChunkedItem, Part
from models.kv.front import Fronts
from models.kv.keys import KV
from precompute.survey import Survey, coded_bytes, lacking_parts, survey
from stage.session import Session


@dataclass
class Built:
    """What was built: tokens that the model ran, bytes written, and chunks, new ones and others."""

    tokens: int = 0
    bytes: int = 0
    new: int = 0
    reused: int = 0

    def add(self, other: Built) -> None:
        self.tokens += other.tokens
        self.bytes += other.bytes
        self.new += other.new
        self.reused += other.reused


class Layout(Protocol):
    """How items are kept, as stage 2 needs to know it."""

    def survey(self, items: Sequence[Item]) -> None:
        """Find out what these items lack, before any of them is built."""

    def told(self) -> str:
        """What was found, for people."""

    def tokens(self, item: Item) -> int:
        """Tokens that an item lacks, and that none before it does."""

    def bytes(self) -> int:
        """Bytes that all of them will take."""

    def given_back(self) -> int:
        """Bytes of files that will be replaced."""

    def build(self, item: Item) -> Built:
        """Build one item."""


def layout_of(session: Session, scores: Sequence[str]) -> Layout:
    """The layout that ``STORE`` names."""
    return (Items if session.config.layout == "item" else Chunks)(session, scores)


class Items:
    """A file an item: all its tokens are run, whoever else holds them."""

    def __init__(self, session: Session, scores: Sequence[str]) -> None:
        self.session, self.scores = session, scores
        self.fronts = Fronts(session.engine.modules)
        self.items: Sequence[Item] = ()

    def survey(self, items: Sequence[Item]) -> None:
        self.items = items

    def told(self) -> str:
        return f"{sum(map(self.tokens, self.items))} tokens"

    def tokens(self, item: Item) -> int:
        return len(item.prompt)

    def bytes(self) -> int:
        tokens = sum(map(self.tokens, self.items))
        return store.kv_bytes(self.session.engine.modules, tokens) + 4 * tokens * len(self.scores)

    def given_back(self) -> int:
        folders = map(self.session.folder, self.items)
        return sum(path.lstat().st_size for folder in folders for path in folder.glob("*.pt"))

    def build(self, item: Item) -> Built:
        session = self.session
        with _named(item):
            before = self.fronts.of(session.fronts[item.id])
            captured = capture(
                session.engine.modules, item.prompt, session.inputs.sink, self.scores, before
            )
        written = store.write(session.folder(item), captured, session.expected(item))
        return Built(len(item.prompt), written)


class Chunks:
    """Every chunk once: of an item only what nobody has built yet is run.

    A chunk whose KVs are there as they are is not run for another codec, but encoded anew.
    """

    def __init__(self, session: Session, scores: Sequence[str]) -> None:
        self.session, self.scores = session, scores
        self.kinds = [KV, *scores]
        self.fronts = Fronts(session.engine.modules)
        self.found = Survey()

    def survey(self, items: Sequence[Item]) -> None:
        self.found = survey(self.session, items, self.kinds)

    def told(self) -> str:
        found = self.found
        return (
            f"{len(found.new)} of {len(found.tokens)} chunks new, "
            f"{found.new_tokens} of {found.all_tokens} tokens"
        )

    def tokens(self, item: Item) -> int:
        return self.found.first.get(item.id, 0)

    def bytes(self) -> int:
        found = self.found
        if not found.new:
            return 0
        typical = median_low(found.tokens[key] for key in found.new)
        coded = coded_bytes(self.session, self.session.codec, typical) / typical
        return int(found.new_tokens * (coded + 4 * len(self.scores)))

    def given_back(self) -> int:
        return 0

    def build(self, item: Item) -> Built:
        stored = self.session.stored(item)
        assert isinstance(stored, ChunkedItem)
        parts = {stored.key(part): part for part in stored.parts}
        with stored.store.pin(stored.keys(self.kinds)):
            lacking = lacking_parts(stored, self.kinds)
            built = Built(new=len(lacking), reused=len(parts) - len(lacking))
            with _named(item):
                to_run = [part for part in lacking if not self._encode(stored, part, built)]
                if to_run:
                    self._run(stored, to_run, built)
            stored.refer(self.scores)
        return built

    def _encode(self, stored: ChunkedItem, part: Part, built: Built) -> bool:
        """Encode a chunk from its uncoded KVs, where these and all scores are there."""
        plain = Part(part.piece, codecs.build(codecs.NONE))
        if stored.key(plain) == stored.key(part) or not stored.has(plain):
            return False
        if not all(stored.has(part, kind) for kind in self.scores):
            return False
        built.bytes += stored.put(part, stored.decoded(plain))
        return True

    def _run(self, stored: ChunkedItem, parts: Sequence[Part], built: Built) -> None:
        modules = self.session.engine.modules
        kv, scores = encode(modules, [part.piece for part in parts], self.fronts.one, self.scores)
        built.tokens += sum(len(part.piece) for part in parts)
        built.bytes += stored.put_parts(parts, kv, scores)


@contextlib.contextmanager
def _named(item: Item) -> Iterator[None]:
    """Put the item in front of what a refusal says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"item {item.id}: {error}") from None
