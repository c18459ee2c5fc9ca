"""``kvfuse store gc``: what nobody refers to goes and, above a budget, the least recently used."""

from __future__ import annotations

import time
from dataclasses import dataclass

from models.chunks.index import Chunk
from models.chunks.sizes import shown
from models.chunks.store import ChunkStore
from models.errors import UserError
from store.config import GcConfig
from store.places import stores


@dataclass
class Swept:
    """What became of chunks that were to go."""

    dry: bool
    chunks: int = 0
    bytes: int = 0
    in_use: int = 0

    def sweep(self, store: ChunkStore, chunk: Chunk) -> None:
        """Remove a chunk unless it is in use."""
        if self.dry or store.remove(chunk):
            self.chunks += 1
            self.bytes += chunk.bytes
        else:
            self.in_use += 1

    def __str__(self) -> str:
        stay = f"; {self.in_use} in use stay" if self.in_use else ""
        verb = "would remove" if self.dry else "removed"
        return f"{verb} {self.chunks} chunks, {shown(self.bytes)}{stay}"


def gc(config: GcConfig) -> None:
    """Sweep every store named; a budget is for all of them together.

    Raises
    ------
    UserError : a manifest cannot be read, so that nobody knows what it refers to: nothing is
        removed. A folder may not be written. More than the budget is in use.
    """
    found = stores(config)
    orphans, others = _sorted_out(config, found)
    unused, evicted = Swept(config.dry), Swept(config.dry)
    for model, chunk in orphans:
        unused.sweep(found[model], chunk)
    left = sum(store.tidy(config.dry) for store in found.values())
    print(f"store: referred to by nobody: {unused}; {left} files of dead processes")
    held = sum(chunk.bytes for _, chunk in [*orphans, *others]) - unused.bytes
    budget = config.budget()
    if budget is not None:
        for model, chunk in others:
            if held - evicted.bytes <= budget:
                break
            evicted.sweep(found[model], chunk)
        held -= evicted.bytes
        print(f"store: not used longest: {evicted}")
    print(f"store: {shown(held)} {'would ' if config.dry else ''}remain")
    if budget is not None and held > budget:
        raise UserError(
            f"{shown(held)} are more than BYTES={config.bytes}: they are in use; try again later"
        )


def _sorted_out(
    config: GcConfig, found: dict[str, ChunkStore]
) -> tuple[list[tuple[str, Chunk]], list[tuple[str, Chunk]]]:
    """Chunks with their models: those that nobody needs, and the others, oldest first."""
    before = time.time_ns() - round(config.grace * 60e9)
    orphans: list[tuple[str, Chunk]] = []
    others: list[tuple[str, Chunk]] = []
    for model, store in found.items():
        with store.index() as index:
            if troubles := index.troubles():
                raise UserError(
                    f"nothing was removed: {len(troubles)} manifests cannot be read, and nobody "
                    f"knows which chunks they name: {troubles[0]}, or kvfuse store rm removes it"
                )
            unreferenced = index.unreferenced()
            going = [chunk for chunk in unreferenced if max(chunk.made, chunk.used) <= before]
            everything = index.oldest()
        keys = {chunk.key for chunk in going}
        orphans += [(model, chunk) for chunk in going]
        others += [(model, chunk) for chunk in everything if chunk.key not in keys]
    others.sort(key=lambda pair: pair[1].used)
    return orphans, others
