"""``kvfuse store verify``: every chunk's bytes against its digests, and every manifest."""

from __future__ import annotations

from tqdm import tqdm

from models.chunks.sizes import shown
from models.chunks.store import ChunkStore
from models.chunks.troubles import ChunkError
from models.errors import UserError
from store.config import StoreConfig
from store.places import stores


def verify(config: StoreConfig) -> None:
    """Read everything, a remote's chunks from there; each trouble is a line.

    Raises
    ------
    UserError : a chunk or a manifest is not what was written, or cannot be had.
    """
    found = stores(config)
    if not found:
        print(f"store: no chunks in KVS={config.kvs}")
    wrong = 0
    for model, store in found.items():
        with store.index() as index:
            keys = [chunk.key for chunk in index.oldest()]
            troubles, uses = index.troubles(), index.uses()
        size, bad = _read(store, keys, model)
        for use in uses:
            if use.absent:
                troubles.append(
                    f"{model}/{use.dataset} names {use.absent} chunks that are not there"
                )
        print(*(f"store: {line}\n" for line in troubles + bad), sep="", end="")
        right = len(keys) - len(bad)
        print(f"store: {model}: {right} of {len(keys)} chunks, {shown(size)}, are as written")
        wrong += len(troubles) + len(bad)
    if wrong:
        raise UserError(f"{wrong} things are not as they were written; make precompute mends them")


def _read(store: ChunkStore, keys: list[str], model: str) -> tuple[int, list[str]]:
    """Bytes of the chunks that are right, and a line for each that is not."""
    size, bad = 0, []
    for key in tqdm(keys, model, unit="chunk", leave=False, disable=None):
        try:
            size += store.check(key)
        except ChunkError as error:
            bad.append(str(error))
    return size, bad
