"""``kvfuse store rm``: a dataset's items refer to nothing any more."""

from __future__ import annotations

from models.chunks.sizes import shown
from models.errors import UserError
from store.config import RmConfig
from store.places import stores


def rm(config: RmConfig) -> None:
    """Remove the manifests of one dataset, of every model named.

    Raises
    ------
    UserError : no item of that dataset refers to chunks, or a folder may not be written.
    """
    assert config.dataset is not None
    known: set[str] = set()
    gone = 0
    for model, store in stores(config).items():
        with store.index() as index:
            known |= {use.dataset for use in index.uses()}
            owners = index.owners(config.dataset)
        if not owners:
            continue
        if not config.dry:
            for owner in owners:
                store.release(owner)
        gone += len(owners)
        verb = "would remove" if config.dry else "removed"
        print(f"store: {verb} {len(owners)} manifests of {model}/{config.dataset}")
        if not config.dry:
            with store.index() as index:
                (count, size), (named, held) = index.totals(), index.referenced()
            print(
                f"store: {count - named} chunks, {shown(size - held)}, are referred to by nobody; "
                "kvfuse store gc removes them"
            )
    if not gone:
        there = f"there are {', '.join(sorted(known))}" if known else "there are none at all"
        raise UserError(f"DATASET={config.dataset} has no manifests in KVS={config.kvs}; {there}")
