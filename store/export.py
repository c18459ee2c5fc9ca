"""``kvfuse store export``: a dataset's KVs from one layout into the other, and nothing is run."""

from __future__ import annotations

from chunk.build import ensure
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from data.inputs import Item
from models import codecs
from models.errors import UserError
from models.kv import store
from models.kv.capture import Captured
from models.kv.chunked import ChunkedItem
from models.kv.format import SCORES
from models.kv.store import StoredItem
from precompute.lock import item_lock
from stage.config import LAYOUTS, ModelConfig
from stage.options import option
from stage.session import Session, begin


@dataclass
class ExportConfig(ModelConfig):
    """Write a dataset's KVs from one layout into the other."""

    to: str = option("item", "item (a file an item, nothing else needed) or chunks")

    def __post_init__(self) -> None:
        if self.to not in LAYOUTS:
            raise UserError(f"TO={self.to} is unknown: give {' or '.join(LAYOUTS)}")
        if "store" in self.given:
            raise UserError(f"STORE={self.store}: export has TO=item or TO=chunks instead")
        coded = [codec for codec in self.codec if codec != codecs.NONE]
        if coded and self.to == "item":
            raise UserError(
                f"CODEC={coded[0]}: a file of a whole item holds KVs as they were computed, and "
                "nobody could tell that these are not"
            )
        super().__post_init__()


def main(config: ExportConfig) -> None:
    """Export every dataset named."""
    for session in begin(config, ensure):
        for codec in config.codec:
            export(session.under(codec), config.to)


def export(session: Session, to: str) -> None:
    """Write what is lacking in the layout ``to`` from what there is in the other.

    Scores go along where all chunks have them.

    Raises
    ------
    UserError : an item is not complete where it is to come from.
    """
    items, written, there = session.inputs.items, 0, 0
    for item in tqdm(items, "export", unit="item", disable=None):
        whole, shared = both(session, item)
        source, target = (shared, whole) if to == "item" else (whole, shared)
        kinds = [kind for kind in SCORES if source.condition([kind]) is None]
        if target.condition(kinds) is None:
            there += 1
            continue
        source.check(kinds)
        with item_lock(session.folder(item)) as ours:
            if not ours:
                raise UserError(f"item {item.id} is being built just now; export it later")
            if to == "item":
                written += _to_item(shared, whole, kinds)
            else:
                written += _to_chunks(whole, shared, kinds)
    place = whole.folder.parent if to == "item" else session.chunks.root
    print(
        f"export: {len(items) - there} of {len(items)} items, {written / 1e9:.2f} GB written -> "
        f"{place}"
    )


def both(session: Session, item: Item) -> tuple[StoredItem, ChunkedItem]:
    """An item in either layout; the file holds KVs as they are, the chunks under the codec."""
    plain = replace(session.config, store="item", codec=[codecs.NONE])
    coded = replace(session.config, store="chunks")
    whole = replace(session, config=plain).stored(item, [])
    shared = replace(session, config=coded).stored(item, [])
    assert isinstance(whole, StoredItem)
    assert isinstance(shared, ChunkedItem)
    return whole, shared


def _to_item(shared: ChunkedItem, whole: StoredItem, kinds: Sequence[str]) -> int:
    kv = torch.cat([shared.decoded(part) for part in shared.parts], 3)
    captured = Captured(kv, {kind: shared.scores(kind) for kind in kinds})
    return store.write(whole.folder, captured, whole.expected)


def _to_chunks(whole: StoredItem, shared: ChunkedItem, kinds: Sequence[str]) -> int:
    return shared.put_all(whole.kv(), {kind: whole.scores(kind) for kind in kinds})
