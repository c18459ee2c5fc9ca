"""The chunk store: each chunk once, under its key, in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from models.atomic import disk_errors
from models.chunks import manifests
from models.chunks.file import ChunkFile
from models.chunks.folder import Folder

CHUNKS = "chunks"


class ChunkStore:
    """Chunks by key, and the manifests that name them, below one model's folder.

    Chunks are ``<kvs>/<model>/chunks/<aa>/<key>.safetensors``, manifests
    ``<kvs>/<model>/<owner>/kvs.json``. Several processes and machines may read and write at once.
    """

    def __init__(self, root: str | Path) -> None:
        """
        Parameters
        ----------
        root : the folder of the chunks, ``<kvs>/<model>/chunks``.
        """
        self.root = Path(root)
        self._folder = Folder(self.root)

    def has(self, key: str, verify: bool = False) -> bool:
        """Whether the chunk is there and whole; its payload is looked at with ``verify`` only."""
        return self._folder.holds(key, verify)

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> int:
        """Write a chunk unless it is there and whole; returns the bytes written.

        Parameters
        ----------
        tensors : contiguous, on the CPU; they lie in the file in the order given.
        meta : anything that JSON holds.

        Raises
        ------
        UserError : the folder cannot be written, or the disk is full.
        """
        return self._folder.put(key, tensors, meta)

    def open(self, key: str, verify: bool = False) -> ChunkFile:
        """The chunk's file; with ``verify`` its payload is looked at too, once a process.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        return self._folder.open(key, verify)

    def pin(self, keys: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """Within the block nobody removes these chunks: those that are there, and those that are
        put or fetched meanwhile. A process that dies pins nothing."""
        return self._folder.pin(keys)

    def refer(
        self, owner: str, keys: Sequence[str], content: Mapping[str, Any] | None = None
    ) -> None:
        """Write an owner's manifest: the chunks that it needs, in order, and what else to keep.

        Parameters
        ----------
        owner : ``<dataset-folder>/item_<id>``.
        content : anything that JSON holds; ``kind`` and ``chunks`` are taken.
        """
        manifests.write(manifests.path_of(self.root.parent, owner), keys, content or {})

    def manifest(self, owner: str) -> dict[str, Any]:
        """What :meth:`refer` wrote: the keys are under ``chunks``.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        return manifests.read(manifests.path_of(self.root.parent, owner))

    def release(self, owner: str) -> None:
        """Remove an owner's manifest, if there is one; its chunks stay until they are collected."""
        path = manifests.path_of(self.root.parent, owner)
        with disk_errors(path):
            path.unlink(missing_ok=True)
