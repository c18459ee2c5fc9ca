"""The chunk store: each chunk once, under its key, in a folder or on a remote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from blake3 import blake3
from torch import Tensor

from models.chunks import index
from models.chunks.cache import Cache
from models.chunks.file import ChunkFile
from models.chunks.index import Chunk, Index
from models.chunks.local import Local
from models.chunks.remote import Remote
from models.chunks.wire import Patience

CHUNKS = "chunks"
ROOM = 20 * 10**9


class ChunkStore:
    """Chunks by key, and the manifests that name them, below one model's folder.

    Chunks are ``<kvs>/<model>/chunks/<aa>/<key>.safetensors``, manifests
    ``<kvs>/<model>/<owner>/kvs.json``. Several processes and machines may read and write at once.
    """

    def __init__(
        self,
        root: str | Path,
        cache: Path | None = None,
        room: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        """
        Parameters
        ----------
        root : the folder of the chunks, ``<kvs>/<model>/chunks``, or its URL on a file system that
            fsspec knows.
        cache : where a remote's chunks are kept on this machine; a folder is its own. By default
            below the cache folder of converted models.
        room : bytes of the cache at most (20 GB).

        Raises
        ------
        UserError : a URL that nothing here can reach.
        """
        self.root = str(root)
        local = folder_of(self.root)
        self._index_at: Path
        self._at: Local | Remote
        if local is not None:
            self._at, self._index_at = Local(local), local
        else:
            place = cache or _own_cache(self.root)
            self._at = Remote(self.root, Cache(place, room or ROOM), patience or Patience())
            self._index_at = place

    @property
    def cache(self) -> Cache | None:
        """Where a remote's chunks are kept on this machine; None for a folder."""
        return self._at.cache if isinstance(self._at, Remote) else None

    def path(self, key: str) -> Path:
        """Where a chunk lies on this machine or, a remote's, once it was fetched."""
        return self._at.path(key)

    def has(self, key: str, verify: bool = False) -> bool:
        """Whether the chunk is there, as far as its header tells; ``verify`` looks at its payload.

        Of a remote it says whether it is there, and only ``verify``, which fetches it, says more.
        """
        return self._at.holds(key, verify)

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> int:
        """Write a chunk unless it is there and whole; returns the bytes written.

        Parameters
        ----------
        tensors : contiguous, on the CPU; they lie in the file in the order given.
        meta : anything that JSON holds.

        Raises
        ------
        UserError : the folder cannot be written, the disk is full, a remote refuses or is silent.
        """
        return self._at.put(key, tensors, meta)

    def open(self, key: str, verify: bool = False) -> ChunkFile:
        """The chunk's file; with ``verify`` its payload is looked at too, once a process.

        A remote's is fetched into the cache first, which it enters verified; one that was damaged
        there since is fetched anew.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        return self._at.open(key, verify)

    def pin(self, keys: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """Within the block nobody removes these chunks from this machine: those that are there, and
        those that are put or fetched meanwhile. A process that dies pins nothing."""
        return self._at.pin(keys)

    def refer(
        self, owner: str, keys: Sequence[str], content: Mapping[str, Any] | None = None
    ) -> None:
        """Write an owner's manifest: all chunks that it needs, in order, and what else to keep.

        Chunks that no manifest names are garbage: keep them pinned until theirs is written.

        Parameters
        ----------
        owner : ``<dataset-folder>/item_<id>``.
        content : anything that JSON holds; ``kind``, ``owner`` and ``chunks`` are taken.
        """
        self._at.refer(owner, keys, content or {})

    def manifest(self, owner: str) -> dict[str, Any]:
        """What :meth:`refer` wrote: the keys are under ``chunks``.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        return self._at.manifest(owner)

    def release(self, owner: str) -> None:
        """Remove an owner's manifest, if there is one; its chunks stay until they are collected."""
        self._at.release(owner)

    def check(self, key: str) -> int:
        """Look at a chunk where it lies, fetched anew from a remote; its use is not noted.

        Returns
        -------
        Its bytes.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        return self._at.check(key)

    def remove(self, chunk: Chunk) -> bool:
        """Remove a chunk that an index named, unless it is pinned or was used since.

        Returns
        -------
        Whether it is gone. A remote cannot tell: there it always is.

        Raises
        ------
        UserError : the folder may not be written, or the remote refuses.
        """
        return self._at.remove(chunk)

    def tidy(self, dry: bool = False) -> int:
        """Remove what dead processes left of files that they wrote; returns how many."""
        return self._at.tidy(dry)

    def index(self) -> contextlib.AbstractContextManager[Index]:
        """What is there and who refers to it, as of now; nobody else has the index meanwhile."""
        return index.opened(self._index_at, self._at.files())


def folder_of(root: str) -> Path | None:
    """The folder that a root names; None for a remote's URL."""
    parts = urlsplit(root)
    if parts.scheme in ("file", "local") and "://" in root:
        return Path(unquote(parts.netloc + parts.path))
    return None if "://" in root else Path(root)


def _own_cache(url: str) -> Path:
    from models.load.source import cache_dir  # it brings the hub's library in

    return cache_dir() / "chunks" / str(blake3(url.encode()).hexdigest())[:16]
