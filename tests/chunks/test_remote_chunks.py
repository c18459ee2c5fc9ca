"""A store on a remote: fetches are verified, failures told apart, the cache bounded."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from models.chunks.store import ChunkStore
from models.chunks.troubles import Damaged, Forbidden, Missing, Unreachable
from models.chunks.wire import Patience
from models.errors import UserError

HASTE = Patience(attempts=3, pause=0.001, silence=5.0)


def key(number: int) -> str:
    return f"{number:064x}"


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {"000.k.rows": torch.full((1000,), float(number))}


@pytest.fixture(autouse=True)
def memory():
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()


@pytest.fixture
def machine(tmp_path):
    """Makes a store as another machine sees it: the same remote, a cache of its own."""

    def made(name: str = "one", room: int = 10**8, patience: Patience = HASTE) -> ChunkStore:
        return ChunkStore("memory://kvs/model/chunks", tmp_path / name, room, patience)

    return made


def cached(store: ChunkStore) -> list[str]:
    return sorted(chunk.key for chunk in store.cache.folder.chunks())


def test_what_one_machine_puts_another_opens(machine, memory):
    one, two = machine("one"), machine("two")
    assert not two.has(key(1))
    with pytest.raises(Missing, match=r"memory://kvs/model/chunks/00/0+1.safetensors is missing"):
        two.open(key(1))
    size = one.put(key(1), tensors(1), {"n": 1})
    assert size == len(memory[f"/kvs/model/chunks/00/{key(1)}.safetensors"].getvalue())
    assert list(memory) == [f"/kvs/model/chunks/00/{key(1)}.safetensors"]
    assert two.has(key(1))
    assert cached(two) == []
    file = two.open(key(1), verify=True)
    assert file.meta == {"n": 1}
    assert torch.equal(file.tensor("000.k.rows"), tensors(1)["000.k.rows"])
    assert cached(two) == [key(1)]
    assert one.put(key(1), tensors(1), {"n": 1}) == two.put(key(1), tensors(1), {"n": 1}) == 0


def test_manifests_and_the_index_are_shared(machine):
    one, two = machine("one"), machine("two")
    for number in (1, 2):
        one.put(key(number), tensors(number), {})
    one.refer("a/item_1", [key(1), key(1)], {"n": 3})
    found = two.manifest("a/item_1")
    assert (found["chunks"], found["n"]) == ([key(1)] * 2, 3)
    with two.index() as index:
        assert index.totals()[0] == 2
        assert [chunk.key for chunk in index.unreferenced()] == [key(2)]
        assert index.uses()[0].items == 1
        two.remove(index.unreferenced()[0])
    assert not one.has(key(2))
    two.release("a/item_1")
    two.release("a/item_1")
    with one.index() as index:
        assert index.uses() == []
        assert len(index.unreferenced()) == 1
    with pytest.raises(Missing):
        one.manifest("a/item_1")


def test_a_damaged_copy_is_fetched_anew(machine):
    one = machine("one")
    one.put(key(1), tensors(1), {})
    path = one.open(key(1)).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\xff")
    assert one.open(key(1), verify=True).path.read_bytes() == whole
    path.write_bytes(whole[:100])
    assert one.open(key(1)).path.read_bytes() == whole


def test_a_damaged_remote_is_told_and_mended_by_who_builds_the_chunk(machine, memory):
    one, two, three = machine("one"), machine("two"), machine("three")
    one.put(key(1), tensors(1), {})
    (name,) = memory
    whole = memory[name].getvalue()
    MemoryFileSystem().pipe_file(name, whole[:-1] + b"\xff")
    with pytest.raises(Damaged, match=r"^memory://kvs.*safetensors is damaged \(its bytes are not"):
        two.open(key(1))
    assert cached(two) == []
    assert not two.has(key(1), verify=True)
    assert one.has(key(1), verify=True)  # from its cache
    assert two.put(key(1), tensors(1), {}) == len(whole)
    assert memory[name].getvalue() == whole
    assert three.open(key(1), verify=True)


class Faulty(MemoryFileSystem):
    """A remote that does to the first so many calls what it is told to."""

    protocol = "faulty"
    cachable = False
    script: list = []  # noqa: RUF012 - emptied before each test
    calls: list = []  # noqa: RUF012

    def _next(self, name):
        self.calls.append(name)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        return step

    def info(self, path, **options):
        self._next("info")
        return super().info(path, **options)

    def _open(self, path, mode="rb", **options):
        step = self._next("open")
        file = super()._open(path, mode, **options)
        if mode == "rb" and callable(step):
            return step(file)
        return file

    def put_file(self, *arguments, **options):
        self._next("put")
        return super().put_file(*arguments, **options)


@pytest.fixture
def faulty(tmp_path):
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.script.clear()
    MemoryFileSystem.store.clear()
    writer = ChunkStore("faulty://kvs/model/chunks", tmp_path / "writer", patience=HASTE)
    writer.put(key(1), tensors(1), {})
    Faulty.calls.clear()
    return ChunkStore("faulty://kvs/model/chunks", tmp_path / "reader", patience=HASTE)


class Denied(Exception):
    status = 403


class NoCredentialsError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError("reset by peer"), Unreachable),
        (TimeoutError(), Unreachable),
        (OSError(5, "Input/output error"), Unreachable),
        (RuntimeError("whatever a library says\nin two lines"), Unreachable),
        (PermissionError(13, "Forbidden"), Forbidden),
        (Denied("no"), Forbidden),
        (NoCredentialsError("none"), Forbidden),
        (FileNotFoundError(2, "gone"), Missing),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_failures_are_told_apart_and_those_that_pass_are_tried_again(faulty, error, told):
    Faulty.script[:] = [error] * 2
    if told is Unreachable:
        assert faulty.open(key(1), verify=True).tensor("000.k.rows")[0] == 1
        assert Faulty.calls == ["open"] * 3
    Faulty.script[:] = [error] * 9
    Faulty.calls.clear()
    faulty.cache.folder.path(key(1)).unlink(missing_ok=True)
    with pytest.raises(told) as caught:
        faulty.open(key(1))
    assert Faulty.calls == ["open"] * (3 if told is Unreachable else 1)
    (line,) = str(caught.value).splitlines()
    assert "faulty://kvs/model/chunks/00/" in line
    assert not list(Path(faulty.cache.folder.root).rglob("*.*"))


def test_what_is_corrupted_on_its_way_is_fetched_again(faulty):
    class Corrupting:
        def __init__(self, file):
            self.file = file

        def read(self, size):
            block = bytearray(self.file.read(size))
            if block:
                block[-1] ^= 1
            return bytes(block)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    Faulty.script[:] = [Corrupting] * 2
    assert faulty.open(key(1), verify=True).tensor("000.k.rows")[-1] == 1
    faulty.cache.folder.path(key(1)).unlink()
    Faulty.script[:] = [Corrupting] * 3
    with pytest.raises(Damaged):
        faulty.open(key(1))
    assert cached(faulty) == []


def test_a_remote_that_falls_silent(faulty, tmp_path):
    released = threading.Event()

    class Silent:
        def __init__(self, file):
            self.file = file

        def read(self, size):
            released.wait()
            return b""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    Faulty.script[:] = [Silent] * 2
    impatient = Patience(attempts=2, pause=0.001, silence=0.05)
    store = ChunkStore("faulty://kvs/model/chunks", tmp_path / "reader", patience=impatient)
    try:
        with pytest.raises(Unreachable, match=r"does not answer \(nothing came for 0.05 s\)"):
            store.open(key(1))
    finally:
        released.set()


def test_a_slow_one_is_waited_for(faulty, tmp_path):
    class Slow:
        def __init__(self, file):
            self.file = file

        def read(self, size):
            threading.Event().wait(0.03)
            return self.file.read(1000)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    Faulty.script[:] = [Slow]
    patient = Patience(attempts=1, pause=0.001, silence=0.5)
    store = ChunkStore("faulty://kvs/model/chunks", tmp_path / "reader", patience=patient)
    assert store.open(key(1), verify=True).tensor("000.k.rows")[0] == 1


def test_an_upload_that_fails_is_made_up_for(faulty):
    Faulty.script[:] = [None, PermissionError(13, "read-only")]
    with pytest.raises(Forbidden, match=f"{key(2)}.safetensors may not be reached"):
        faulty.put(key(2), tensors(2), {})
    assert not faulty.has(key(2))
    assert not any(name.endswith(".tmp") for name in MemoryFileSystem.store)
    assert faulty.put(key(2), tensors(2), {}) > 0
    assert faulty.has(key(2))


def test_the_cache_is_bounded_and_what_is_used_least_lately_goes(machine):
    one = machine("one")
    sizes = [one.put(key(number), tensors(number), {}) for number in range(12)]
    size = max(sizes)
    two = machine("two", room=6 * size)
    for number in range(12):
        path = two.open(key(number)).path
        os.utime(path, ns=(number + 1, 5))
        assert len(cached(two)) <= 6
    assert cached(two)[-1] == key(11)
    assert len(cached(two)) >= 4


def test_what_is_pinned_stays_in_the_cache(machine):
    one = machine("one")
    size = max(one.put(key(number), tensors(number), {}) for number in range(12))
    two = machine("two", room=4 * size)
    with two.pin([key(0), key(1)]):
        for number in range(12):
            two.open(key(number))
        assert {key(0), key(1)} <= set(cached(two))
        with two.pin(map(key, range(2, 6))), pytest.raises(UserError, match="give CACHE= more"):
            _ = [two.open(key(number)) for number in range(2, 6)]
    two.open(key(7))
    assert len(cached(two)) <= 4


def test_a_file_url_is_a_folder(tmp_path):
    store = ChunkStore(f"file://{tmp_path}/a b/model/chunks")
    store.put(key(1), tensors(1), {})
    assert store.cache is None
    assert (tmp_path / "a b" / "model" / "chunks" / "00" / f"{key(1)}.safetensors").is_file()


@pytest.mark.parametrize(
    ("url", "says"),
    [("nowhere://x/chunks", "Protocol not known: nowhere; give a folder"), ("s3://x/chunks", "s3")],
)
def test_what_nothing_here_can_reach(url, says, tmp_path):
    if url.startswith("s3") and _installed("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(UserError, match=says):
        ChunkStore(url, tmp_path)


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
