"""``kvfuse store ls`` and ``stat``: what is there, who refers to it, what sharing saves."""

from __future__ import annotations

from datetime import datetime

from models.chunks.index import Index
from models.chunks.sizes import shown
from models.chunks.store import ChunkStore
from stage.columns import columns
from store.config import StoreConfig
from store.places import stores

HEAD = ["model", "dataset", "items", "chunks", "referred", "held", "ratio", "shared", "absent"]
LEGEND = """
referred: bytes of its items' chunks, each as often as an item names it, as items of their own
would take; held: each chunk once; ratio: referred / held; shared: of these, what another dataset
refers to as well; absent: chunks that are named and not there (make precompute builds them).
"""
NOBODY, ALL = "(nobody)", "= all"


def ls(config: StoreConfig) -> None:
    """A row for every dataset, for what nobody refers to, and for all of a model."""
    found = stores(config)
    rows, troubles = [HEAD], []
    for model, store in found.items():
        with store.index() as index:
            rows += _rows(model, index)
            troubles += index.troubles()
    if len(rows) == 1:
        print(f"store: no chunks in KVS={config.kvs}")
        return
    print(*columns(rows, ["<", "<", *[">"] * 7]), sep="\n")
    print(LEGEND.rstrip())
    print(*(f"store: {trouble}" for trouble in troubles), sep="\n", end="\n" if troubles else "")


def stat(config: StoreConfig) -> None:
    """One model after the other, a figure a line."""
    found = stores(config)
    if not found:
        print(f"store: no chunks in KVS={config.kvs}")
    for model, store in found.items():
        with store.index() as index:
            lines = _figures(store, index)
        print(*columns([[model, ""], *lines], "<"), sep="\n")


def _rows(model: str, index: Index) -> list[list[str]]:
    uses, (count, size), (named, held) = index.uses(), index.totals(), index.referenced()
    rows = []
    for use in uses:
        figures = [use.items, use.chunks, shown(use.referred), shown(use.held)]
        shared = shown(use.shared) if use.shared else "-"
        ratio, absent = _ratio(use.referred, use.held), str(use.absent or "-")
        rows.append([model, use.dataset, *map(str, figures), ratio, shared, absent])
    if count > named:
        rows.append([model, NOBODY, "-", str(count - named), "-", shown(size - held), *"---"])
    if rows:
        referred = sum(use.referred for use in uses)
        items = str(sum(use.items for use in uses))
        whole = [items, str(count), shown(referred), shown(size), _ratio(referred, size)]
        rows.append([model, ALL, *whole, "", ""])
    return rows


def _figures(store: ChunkStore, index: Index) -> list[list[str]]:
    uses, (count, size), (named, held) = index.uses(), index.totals(), index.referenced()
    referred = sum(use.referred for use in uses)
    oldest = index.oldest()
    troubles = index.troubles()
    lines = [
        ["  where", store.root],
        ["  chunks", f"{count}, {shown(size)}"],
        ["  referred to", f"{named}, {shown(held)}, by {sum(use.items for use in uses)} items"],
        ["  referred to by nobody", f"{count - named}, {shown(size - held)}"],
        ["  bytes referred to / held", f"{shown(referred)} / {shown(size)}"],
        ["  deduplication ratio", _ratio(referred, size)],
        ["  named and not there", str(sum(use.absent for use in uses))],
        ["  manifests that cannot be read", str(len(troubles))],
        ["  left by dead processes", f"{store.tidy(dry=True)} files"],
    ]
    if oldest:
        used = datetime.fromtimestamp(oldest[0].used / 1e9)
        lines.append(["  least recently used", f"{used:%Y-%m-%d %H:%M}"])
    if store.cache:
        fetched = [chunk.bytes for chunk in store.cache.folder.chunks()]
        of = f"{shown(sum(fetched))} of {shown(store.cache.room)}"
        lines.append(["  cache", f"{len(fetched)} chunks, {of}, in {store.cache.folder.root}"])
    return lines + [["", trouble] for trouble in troubles]


def _ratio(referred: int, held: int) -> str:
    return f"{referred / held:.2f}x" if held else "-"
