"""Chunks on a file system that fsspec reaches, read through a bounded folder of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback
from torch import Tensor

from models.chunks import manifests
from models.chunks.cache import Cache
from models.chunks.file import ChunkFile
from models.chunks.index import Chunk, Files, Owner
from models.chunks.names import key_of, name_of
from models.chunks.troubles import Damaged, Missing, Unreachable, damaged
from models.chunks.wire import Patience, Progress, call
from models.errors import UserError

T = TypeVar("T")
BLOCK = 16 << 20
# An object is there as a whole or not at all; elsewhere a file is put under another name first.
_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"}
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class Remote:
    """The chunks and manifests of one model below an fsspec URL.

    What is read or written passes through the cache, which nothing enters unverified. A remote
    knows no time of last use: that of writing stands for it.
    """

    def __init__(self, url: str, cache: Cache, patience: Patience) -> None:
        """
        Parameters
        ----------
        url : of the chunks' folder, as ``s3://bucket/kvs/<model>/chunks``.

        Raises
        ------
        UserError : there is no such file system, or its package is not installed.
        """
        self.cache = cache
        self._patience = patience
        self._above, _, self._folder = url.rstrip("/").rpartition("/")
        self._files, self._base = connect(self._above)
        self._objects = url.partition("://")[0] in _OBJECTS

    def path(self, key: str) -> Path:
        """Where a chunk lies in the cache, once it was fetched."""
        return self.cache.folder.path(key)

    def open(self, key: str, verify: bool = False) -> ChunkFile:
        """The chunk's file in the cache; fetched where it is not there, or not whole."""
        with self.cache.folder.pin([key]):
            if not self.cache.folder.holds(key, verify):
                self._fetch(key)
            return self.cache.folder.open(key)

    def holds(self, key: str, verify: bool = False) -> bool:
        """Whether the remote has the chunk; with ``verify`` it is fetched and looked at too."""
        try:
            if verify:
                self.open(key, verify)
            self._size(key)
        except (Missing, Damaged):
            return False
        return True

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> int:
        """Write a chunk to the cache and from there to the remote, unless it is there and whole."""
        folder = self.cache.folder
        with folder.pin([key]):
            try:
                self.open(key, verify=True)
                made = 0
            except (Missing, Damaged):
                made = folder.put(key, tensors, meta)
                self.cache.grown(made)
            size = folder.path(key).stat().st_size
            with contextlib.suppress(Missing):
                if not made and self._size(key) == size:
                    return 0
            self._upload(key)
        return size

    def pin(self, keys: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """As :meth:`models.chunks.folder.Folder.pin`, of the cache, from which all is read."""
        return self.cache.folder.pin(keys)

    def remove(self, chunk: Chunk) -> bool:
        """Remove a chunk from the remote; its copies in caches stay."""
        with contextlib.suppress(Missing):
            self._call(self._chunk(chunk.key), lambda at, _: self._files.rm_file(at))
        return True

    def files(self) -> Files:
        """What an index is made from: one listing for chunks and manifests together."""
        found: list[tuple[str, dict[str, Any]]] = []

        def chunks() -> Iterator[Chunk]:
            found[:] = self._listing()
            for name, info in found:
                key = key_of(name)
                if key and name == self._chunk(key):
                    made = _time(info)
                    yield Chunk(key, int(info["size"]), made, made)

        def owners() -> Iterator[Owner]:
            for name, info in found:
                if owner := manifests.owner_of(name):
                    stamp = [info.get(field) for field in ("size", "ETag", "etag", *_TIMES)]
                    yield Owner(owner, repr(stamp))

        return Files(chunks, owners, lambda owner: manifests.keys_of(self.manifest(owner)))

    def check(self, key: str) -> int:
        """Look at a chunk's bytes as they come from the remote; returns how many they are."""
        return self._fetch(key)

    def tidy(self, dry: bool = False) -> int:
        """Nothing: age alone does not say that who writes to a remote is dead."""
        return 0

    def manifest(self, owner: str) -> dict[str, Any]:
        """An owner's manifest."""
        name = manifests.name_of(owner)
        place = self._place(name)
        return self._call(
            name, lambda at, _: manifests.decode(self._files.cat_file(at), owner, place)
        )

    def refer(self, owner: str, keys: Sequence[str], content: Mapping[str, Any]) -> None:
        """Write an owner's manifest."""
        text = manifests.encode(owner, keys, content)

        def write(at: str, _: Progress) -> None:
            with self._becoming(at) as target:
                self._files.pipe_file(target, text)

        self._call(manifests.name_of(owner), write)

    def release(self, owner: str) -> None:
        """Remove an owner's manifest, if there is one."""
        with contextlib.suppress(Missing):
            self._call(manifests.name_of(owner), lambda at, _: self._files.rm_file(at))

    def _fetch(self, key: str) -> int:
        """Fetch a chunk into the cache, verified; returns its bytes."""
        place = self._place(self._chunk(key))

        def fetch(at: str, progress: Progress) -> int:
            with self._files.open(at, "rb") as source, self.cache.folder.written(key) as file:
                while block := source.read(BLOCK):
                    file.write(block)
                    progress.note()
                file.flush()
                try:
                    found = ChunkFile(Path(file.name), key)
                    found.verify()
                except Damaged as error:
                    why = str(error).partition("(")[2].partition(");")[0]
                    raise damaged(place, why) from None
                return found.nbytes

        with self.cache.folder.pin([key]):
            size = self._call(self._chunk(key), fetch)
            self.cache.grown(size)
        return size

    def _upload(self, key: str) -> None:
        path = self.cache.folder.path(key)

        def upload(at: str, progress: Progress) -> None:
            with self._becoming(at) as target:
                self._files.put_file(str(path), target, callback=_Noted(progress))

        self._call(self._chunk(key), upload)
        if self._size(key) != path.stat().st_size:
            raise Unreachable(f"{self._place(self._chunk(key))} was cut short; try again")

    @contextlib.contextmanager
    def _becoming(self, at: str) -> Iterator[str]:
        """A name to write to; what was written there becomes ``at``, as a whole."""
        if self._objects:
            yield at
            return
        folder, _, name = at.rpartition("/")
        author = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
        temporary = f"{folder}/.{name}.{author}.tmp"
        self._files.makedirs(folder, exist_ok=True)
        try:
            yield temporary
            self._files.mv(temporary, at)
        except BaseException:
            with contextlib.suppress(Exception):  # the remote fails: what went wrong first is told
                self._files.rm_file(temporary)
            raise

    def _size(self, key: str) -> int:
        return int(self._call(self._chunk(key), lambda at, _: self._files.info(at)["size"]))

    def _listing(self) -> list[tuple[str, dict[str, Any]]]:
        """Names below the model's folder, with what the remote says of each."""

        def listing(at: str, progress: Progress) -> list[tuple[str, dict[str, Any]]]:
            found = self._found(at, progress)
            return [(name.removeprefix(at).lstrip("/"), info) for name, info in found]

        try:
            return self._call("", listing)
        except Missing:
            return []

    def _found(self, above: str, progress: Progress) -> list[tuple[str, dict[str, Any]]]:
        """Files up to two folders below; all of them, or an error.

        fsspec's own ``find`` leaves out what it cannot list, unless it asks an object store once:
        chunks whose manifests were left out would be taken for garbage.
        """
        if self._objects:
            return list(self._files.find(above, detail=True).items())
        found = []
        folders = [(above, 0)]
        while folders:
            path, depth = folders.pop()
            try:
                entries = self._files.ls(path, detail=True)
            except FileNotFoundError:
                if not depth:
                    raise
                raise OSError(f"{path} went while it was listed") from None
            progress.note()
            for entry in entries:
                name = str(entry["name"]).rstrip("/")
                if entry["type"] != "directory":
                    found.append((name, entry))
                elif depth < 2:
                    folders.append((name, depth + 1))
        return found

    def _chunk(self, key: str) -> str:
        return f"{self._folder}/{name_of(key)}"

    def _call(self, name: str, work: Callable[[str, Progress], T]) -> T:
        """Do ``work`` with a name's path on the remote; see :func:`models.chunks.wire.call`."""

        def fresh(progress: Progress) -> T:
            self._files.invalidate_cache()  # what was listed before may have changed since
            return work(f"{self._base}/{name}".rstrip("/"), progress)

        return call(self._place(name), self._patience, fresh)

    def _place(self, name: str) -> str:
        """A name as messages have it."""
        return f"{self._above}/{name}".rstrip("/")


class _Noted(Callback):
    """Notes that bytes were sent."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def relative_update(self, inc: int = 1) -> None:
        self._progress.note()


def connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it.

    Raises
    ------
    UserError : there is no such file system, or its package is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        files, base = fsspec.core.url_to_fs(url)
    except ImportError as error:
        hint = "; install kvfuse's extra s3" if protocol in ("s3", "s3a") else ""
        raise UserError(f"{url} cannot be reached: {error}{hint}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}; give a folder or a URL that fsspec knows") from None
    return files, str(base).rstrip("/")


def _time(info: Mapping[str, Any]) -> int:
    """When an object was written, in nanoseconds; now, where the remote does not say."""
    for field in _TIMES:
        found = info.get(field)
        if isinstance(found, str):
            with contextlib.suppress(ValueError):
                found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            found = found.timestamp()
        if isinstance(found, (int, float)):
            return int(found * 1e9)
    return time.time_ns()
