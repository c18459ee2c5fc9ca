"""What a store holds and who refers to it, as SQLite: compared with the files, never believed.

The files and the manifests are the truth, and each opening looks at all of them; what an index
saves is reading every manifest again. It is one file with a digest beside it: an index that was
changed by anybody else, or left half written, is built anew; where it cannot be written it is kept
in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3
from filelock import FileLock

from models.atomic import writing
from models.chunks.troubles import ChunkError, Missing
from models.errors import UserError

NAME = "index.sqlite"
SEAL = f"{NAME}.blake3"
LOCK = f".{NAME}.lock"
_SETTINGS = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
"""  # a power cut may tear the file: its digest tells, and it is built anew
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    key BLOB PRIMARY KEY, bytes INTEGER, made INTEGER, used INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (
    id INTEGER PRIMARY KEY, owner TEXT UNIQUE, dataset TEXT, stamp TEXT, trouble TEXT
);
CREATE TABLE IF NOT EXISTS refs (
    owner INTEGER, key BLOB, times INTEGER, PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_key ON refs (key);
CREATE TEMP TABLE there (key BLOB PRIMARY KEY, bytes INTEGER, made INTEGER, used INTEGER);
"""
_TAKE_OVER = """
DELETE FROM chunks WHERE key NOT IN (SELECT key FROM there);
INSERT INTO chunks SELECT * FROM there WHERE true ON CONFLICT (key) DO UPDATE
    SET bytes = excluded.bytes, made = excluded.made, used = excluded.used
    WHERE (bytes, made, used) <> (excluded.bytes, excluded.made, excluded.used);
"""
_USES = """
WITH named AS (
    SELECT dataset, key, SUM(times) AS times FROM refs JOIN owners ON owners.id = refs.owner
    GROUP BY dataset, key
), several AS (SELECT key FROM named GROUP BY key HAVING COUNT(*) > 1)
SELECT dataset, COUNT(bytes), COALESCE(SUM(times * bytes), 0), COALESCE(SUM(bytes), 0),
    COALESCE(SUM(bytes) FILTER (WHERE key IN several), 0), COUNT(*) - COUNT(bytes)
FROM named LEFT JOIN chunks USING (key) GROUP BY dataset
"""


class Chunk(NamedTuple):
    """One file of a store; ``made`` and ``used`` (last) are nanoseconds since 1970."""

    key: str
    bytes: int
    made: int
    used: int


class Owner(NamedTuple):
    """One manifest as it lies there: ``stamp`` changes whenever it does."""

    name: str
    stamp: str


class Use(NamedTuple):
    """What one dataset's items refer to.

    Attributes
    ----------
    referred : bytes of its chunks, each as often as it is named. held : each once. shared : of
        these, what another dataset refers to as well. absent : chunks named and not there.
    """

    dataset: str
    items: int
    chunks: int
    referred: int
    held: int
    shared: int
    absent: int


class Files(NamedTuple):
    """What an index is made from, looked at anew at each call."""

    chunks: Callable[[], Iterable[Chunk]]
    owners: Callable[[], Iterable[Owner]]
    keys: Callable[[str], Sequence[str]]


class Index:
    """Questions about a store; :func:`opened` makes one that is up to date."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def compare(self, files: Files) -> None:
        """Take over what differs from the files: all of it or, where that fails, nothing."""
        with self._database as database:
            database.execute("BEGIN")
            rows = ((bytes.fromhex(key), *rest) for key, *rest in files.chunks())
            database.executemany("INSERT OR REPLACE INTO there VALUES (?, ?, ?, ?)", rows)
            for statement in _TAKE_OVER.split(";")[:-1]:
                database.execute(statement)
            database.execute("DELETE FROM there")
            known = {
                owner: (number, stamp)
                for owner, number, stamp in self._rows("SELECT owner, id, stamp FROM owners")
            }
            for owner in files.owners():
                number, stamp = known.pop(owner.name, (None, None))
                if stamp != owner.stamp:
                    self._read_manifest(owner, number, files)
            self._forget(number for number, _ in known.values())

    def _read_manifest(self, owner: Owner, number: int | None, files: Files) -> None:
        if number is not None:
            self._forget([number])
        keys: Sequence[str] = []
        trouble = None
        try:
            keys = files.keys(owner.name)
        except Missing:
            return  # released since it was listed
        except ChunkError as error:
            trouble = str(error)
        dataset = owner.name.partition("/")[0]
        stamp = owner.stamp if trouble is None else None  # what cannot be read is tried again
        added = self._database.execute(
            "INSERT INTO owners (owner, dataset, stamp, trouble) VALUES (?, ?, ?, ?)",
            (owner.name, dataset, stamp, trouble),
        )
        self._database.executemany(
            "INSERT INTO refs VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
            ((added.lastrowid, bytes.fromhex(key)) for key in keys),
        )

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._database.execute("DELETE FROM refs WHERE owner = ?", (number,))
            self._database.execute("DELETE FROM owners WHERE id = ?", (number,))

    def totals(self) -> tuple[int, int]:
        """Chunks that are there, and their bytes."""
        ((count, size),) = self._rows("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM chunks")
        return count, size

    def uses(self) -> list[Use]:
        """What each dataset refers to, by name."""
        found = {name: rest for name, *rest in self._rows(_USES)}
        items = self._rows("SELECT dataset, COUNT(*) FROM owners GROUP BY dataset ORDER BY 1")
        return [Use(name, count, *found.get(name, [0] * 5)) for name, count in items]

    def referenced(self) -> tuple[int, int]:
        """Chunks that are there and referred to, each once, and their bytes."""
        query = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM chunks WHERE key IN"
        ((count, size),) = self._rows(f"{query} (SELECT key FROM refs)")
        return count, size

    def unreferenced(self) -> list[Chunk]:
        """Chunks that no manifest names, the least recently used first."""
        return self._chunks("WHERE key NOT IN (SELECT key FROM refs)")

    def oldest(self) -> list[Chunk]:
        """All chunks, the least recently used first."""
        return self._chunks("")

    def owners(self, dataset: str) -> list[str]:
        """The owners of one dataset, those of unreadable manifests too."""
        query = "SELECT owner FROM owners WHERE dataset = ? ORDER BY owner"
        return [owner for (owner,) in self._rows(query, (dataset,))]

    def troubles(self) -> list[str]:
        """Why manifests cannot be read, a line each."""
        query = "SELECT trouble FROM owners WHERE trouble IS NOT NULL ORDER BY owner"
        return [trouble for (trouble,) in self._rows(query)]

    def _chunks(self, condition: str) -> list[Chunk]:
        query = f"SELECT key, bytes, made, used FROM chunks {condition} ORDER BY used, key"
        return [Chunk(key.hex(), *rest) for key, *rest in self._rows(query)]

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()


@contextlib.contextmanager
def opened(folder: Path, files: Files) -> Iterator[Index]:
    """The index of a store's folder, up to date; nobody else opens it meanwhile.

    Raises
    ------
    Forbidden, Unreachable : the chunks cannot be listed.
    """
    with _locked(folder) as ours:
        database = _compared(folder, files) if ours else None
        on_disk = database is not None
        if database is None:
            database = sqlite3.connect(":memory:", isolation_level=None)
            database.executescript(_SCHEMA)
            Index(database).compare(files)
        try:
            yield Index(database)
        finally:
            database.close()
            if on_disk:
                _seal(folder)


def _compared(folder: Path, files: Files) -> sqlite3.Connection | None:
    """The database of a folder, up to date; None where SQLite cannot have it there.

    It is emptied first where it is not what was sealed.
    """
    path = folder / NAME
    digest = _digest(path)
    if digest is None or digest != _sealed(folder):
        _discard(folder)
    database = None
    try:
        database = sqlite3.connect(path, isolation_level=None)
        database.executescript(_SETTINGS + _SCHEMA)
        Index(database).compare(files)
    except BaseException as error:
        if database:
            database.close()
        if not isinstance(error, sqlite3.Error):
            raise
        _discard(folder)  # of a disk that is full, perhaps: what is left of it is of no use
        return None
    return database


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Wait for the index's lock; yields False where the folder is not there or may not be written.

    SQLite's own locks do not reach over a network's folders; this one does.
    """
    lock = FileLock(folder / LOCK)
    with contextlib.suppress(OSError):
        if folder.is_dir():
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _seal(folder: Path) -> None:
    """Keep the digest of a closed database beside it, where it is another than before."""
    digest = _digest(folder / NAME)
    if digest and digest != _sealed(folder):
        with contextlib.suppress(UserError), writing(folder / SEAL) as file:  # else: built anew
            file.write(digest.encode())


def _digest(path: Path) -> str | None:
    """BLAKE3 of a database; None where there is none, or what a killed process left beside it."""
    if path.with_name(f"{NAME}-wal").exists():
        return None
    try:
        with path.open("rb") as file:
            hasher = blake3()
            while block := file.read(1 << 20):
                hasher.update(block)
        return str(hasher.hexdigest())
    except OSError:
        return None


def _sealed(folder: Path) -> str | None:
    try:
        return (folder / SEAL).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def _discard(folder: Path) -> None:
    for name in (SEAL, NAME, f"{NAME}-wal", f"{NAME}-shm", f"{NAME}-journal"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
