"""The stores below ``KVS=``: one for each model."""

from __future__ import annotations

from pathlib import Path

from models.chunks.remote import connect
from models.chunks.store import CHUNKS, ChunkStore, folder_of
from models.chunks.troubles import Missing, reading
from models.chunks.wire import Patience, call
from models.errors import UserError
from store.config import StoreConfig


def stores(config: StoreConfig) -> dict[str, ChunkStore]:
    """The stores by model; those of one model where ``MODEL=`` names it.

    Raises
    ------
    UserError : no chunks of that model, or a place that cannot be read.
    """
    root = config.kvs.rstrip("/")
    folder = folder_of(root)
    names = _local(folder) if folder is not None else _remote(root)
    if config.model is not None:
        if config.model not in names:
            there = f"there are {', '.join(names)}" if names else "there are none at all"
            raise UserError(f"MODEL={config.model} has no chunks in KVS={config.kvs}; {there}")
        names = [config.model]
    return {name: ChunkStore(f"{root}/{name}/{CHUNKS}", room=config.room()) for name in names}


def _local(folder: Path) -> list[str]:
    with reading(folder):
        try:
            return sorted(path.name for path in folder.iterdir() if (path / CHUNKS).is_dir())
        except FileNotFoundError:
            return []


def _remote(url: str) -> list[str]:
    files, base = connect(url)

    def found() -> list[str]:
        files.invalidate_cache()
        entries = files.ls(base, detail=True)
        folders = [str(entry["name"]) for entry in entries if entry["type"] == "directory"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in folders)

    try:
        return call(url, Patience(), lambda progress: found())
    except Missing:
        return []
