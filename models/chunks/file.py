"""One chunk's file, opened: its meta, where its tensors lie, and whether it is what was written."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.chunks.format import Header, Part, decode, length
from models.chunks.troubles import damaged, reading
from models.kv.pagecache import advise

Identity = tuple[int, int, int, int]

_verified: set[Identity] = set()  # files whose payload this process has found to be right


class ChunkFile:
    """An immutable file, its header read and checked; nothing of its payload is read until asked.

    Attributes
    ----------
    path : where it lies on this machine.
    key : 64 hex, as the file itself says.
    meta : what was given to :meth:`models.chunks.store.ChunkStore.put`.
    nbytes : of the whole file.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        """Open ``path``, which must hold the chunk ``key`` where one is given.

        Raises
        ------
        Missing, Damaged, Forbidden, Unreachable : in one line that names the file.
        """
        self.path = path
        with reading(path), path.open("rb") as file:
            stat = os.fstat(file.fileno())
            self.nbytes = stat.st_size
            self._identity: Identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            try:
                first = file.read(8)
                head = first + file.read(length(first, self.nbytes) - 8)
                self._header: Header = decode(head, self.nbytes)
            except ValueError as error:
                raise damaged(path, str(error)) from None
        if key is not None and key != self._header.key:
            raise damaged(path, "it holds another chunk")
        self._opened: Any = None

    @property
    def key(self) -> str:
        return self._header.key

    @property
    def meta(self) -> dict[str, Any]:
        return self._header.meta

    @property
    def names(self) -> list[str]:
        """The tensors' names, in the order in which they lie."""
        return list(self._header.parts)

    def layout(self, name: str) -> Part:
        """A tensor's dtype, shape, offset in the file and bytes, for pread."""
        return self._header.parts[name]

    def tensor(self, name: str) -> Tensor:
        """A tensor that is backed by the file: nothing of it is read until it is used.

        Raises
        ------
        Damaged : the file was replaced by something else since it was opened.
        """
        if self._opened is None:
            with reading(self.path):
                try:
                    self._opened = safe_open(self.path, "pt")
                except SafetensorError as error:
                    raise damaged(self.path, str(error)) from None
        found: Tensor = self._opened.get_tensor(name)
        return found

    def verify(self) -> None:
        """Compare the payload with its digest, once a process and change of the file.

        Raises
        ------
        Damaged : they differ.
        """
        if self._identity in _verified:
            return
        advise(self.path, "POSIX_FADV_WILLNEED")  # not one page fault after another
        with reading(self.path), self.path.open("rb") as file:
            digest = blake3()
            # A file that shrinks while it is mapped ends the process: its size is looked at now.
            if file.seek(0, 2) == self._header.end > self._header.start:
                with (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages,
                    memoryview(pages) as whole,
                    whole[self._header.start :] as payload,
                ):
                    digest.update(payload)
        if digest.hexdigest() != self._header.payload:
            raise damaged(self.path, "its bytes are not those that were written")
        _verified.add(self._identity)
