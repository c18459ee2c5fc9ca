"""Where the methods' KVs lie: one place for all that share a context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.inputs import Item
from eval.variants import Variant
from models.kv import store
from stage.session import Session


@dataclass(frozen=True)
class Source:
    """Where methods that share a context find their KVs.

    Attributes
    ----------
    session : with chunks captured behind that context.
    needs : scores found offline that they read.
    """

    session: Session
    needs: list[str]

    def stored(self, item: Item) -> store.StoredItem:
        """The item's files of stage 2."""
        return store.StoredItem(
            self.session.folder(item),
            self.session.expected(item),
            self.session.precompute_command(self.needs),
        )


def sources(session: Session, variants: Sequence[Variant]) -> dict[str | None, Source]:
    """Where the methods' KVs lie, by context; the full prefill has none."""
    needs: dict[str, set[str]] = {}
    for variant in variants:
        if variant.selector and variant.context:
            needs.setdefault(variant.context, set()).update(variant.selector.needs)
    return {name: Source(session.behind(name), sorted(needs[name])) for name in needs}
