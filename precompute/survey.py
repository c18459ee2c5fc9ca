"""Which chunks some items hold, how often, and which of them are not there yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from data.inputs import Item
from models.codecs import BaseCodec
from models.kv.chunked import ChunkedItem, Part
from models.kv.keys import KV
from stage.session import Session


@dataclass
class Survey:
    """Chunks of some items, each once, by key.

    Attributes
    ----------
    items : how many. tokens : of each chunk. uses : how often it stands in these items.
    new : those not yet there. coded : those that lie under the codec, and not as they are.
    first : tokens of new chunks that an item is the first to hold, by its id.
    """

    items: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    new: set[str] = field(default_factory=set)
    coded: set[str] = field(default_factory=set)
    first: Counter[str] = field(default_factory=Counter)

    @property
    def all_tokens(self) -> int:
        return sum(self.tokens.values())

    @property
    def new_tokens(self) -> int:
        return sum(self.tokens[key] for key in self.new)

    def add(self, other: Survey) -> None:
        """Count another dataset's items too."""
        self.items += other.items
        self.tokens |= other.tokens
        self.uses += other.uses
        self.new |= other.new
        self.coded |= other.coded
        self.first += other.first


def survey(
    session: Session, items: Sequence[Item], kinds: Sequence[str] = (KV,), verify: bool = True
) -> Survey:
    """The chunks that these items hold, and which of them are not there with all ``kinds``.

    Parameters
    ----------
    verify : look at all bytes of those that are there.
    """
    found = Survey(len(items))
    for item in items:
        stored = session.stored(item)
        assert isinstance(stored, ChunkedItem)
        for part in stored.parts:
            key = stored.key(part)
            found.uses[key] += 1
            if key not in found.tokens:
                found.tokens[key] = len(part.piece)
                if part.codec is session.codec:
                    found.coded.add(key)
                if not all(stored.has(part, kind, verify) for kind in kinds):
                    found.new.add(key)
                    found.first[item.id] += len(part.piece)
    return found


def lacking_parts(stored: ChunkedItem, kinds: Sequence[str]) -> list[Part]:
    """An item's chunks that lack one of ``kinds``, each once."""
    parts = {stored.key(part): part for part in stored.parts}
    return [part for part in parts.values() if not all(stored.has(part, k) for k in kinds)]


def coded_bytes(session: Session, codec: BaseCodec, tokens: int) -> int:
    """Bytes of a chunk's KVs under a codec, its file's header aside: some random ones encoded."""
    modules = session.engine.modules
    _, n_layers, heads, _, dim = modules.kv_shape(tokens)
    rows = torch.randn(heads, tokens, dim, generator=torch.Generator().manual_seed(0))
    parts = (
        codec.encode(kind, layer, n_layers, rows.to(modules.dtype))
        for layer in range(n_layers)
        for kind in range(2)
    )
    return sum(part.nbytes for found in parts for part in found.values())
