"""Where the methods' KVs lie: one place for all that share a context and a codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.inputs import Item
from eval.variants import Variant, Where
from models import codecs
from stage.session import Session, Stored


@dataclass(frozen=True)
class Source:
    """Where methods that share a context and a codec find their KVs.

    Attributes
    ----------
    session : with chunks captured behind that context, under that codec.
    needs : scores found offline that they read.
    """

    session: Session
    needs: list[str]

    def stored(self, item: Item) -> Stored:
        """The item's files of stage 2."""
        return self.session.stored(item, self.needs)


def sources(session: Session, variants: Sequence[Variant]) -> dict[Where, Source]:
    """Where the methods' KVs lie; the full prefill has none.

    Those that lie as they are come first: under another codec they need not be run again.
    """
    needs: dict[Where, set[str]] = {}
    for variant in variants:
        if variant.selector and variant.where:
            needs.setdefault(variant.where, set()).update(variant.selector.needs)
    return {
        where: Source(session.behind(where[0]).under(where[1]), sorted(needs[where]))
        for where in sorted(needs, key=lambda where: where[1] != codecs.NONE)
    }
