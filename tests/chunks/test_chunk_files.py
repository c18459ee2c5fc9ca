"""A chunk's file: what the library reads in it, where its tensors lie, what damage does to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.chunks.file import ChunkFile
from models.chunks.format import DTYPES
from models.chunks.store import ChunkStore
from models.chunks.troubles import Damaged, Missing
from models.errors import UserError

KEY, OTHER = "ab" * 32, "cd" * 32
META = {"tokens": 7, "front": None, "codec": {"spec": "int4", "text": "é"}}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Layers of mixed dtypes, with odd sizes in front of wide ones."""
    made = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(3):
        for kind in "kv":
            found[f"{layer:03}.{kind}.scale"] = torch.rand(3, 5, generator=made).half()
            found[f"{layer:03}.{kind}.codes"] = torch.randint(
                -128, 127, (3, 5, 7), generator=made, dtype=torch.int8
            )
        found[f"{layer:03}.k.zero"] = torch.rand(2, 3, generator=made)
    return found


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "model" / "chunks")


@pytest.fixture
def path(store):
    store.put(KEY, tensors(), META)
    return store.open(KEY).path


def test_what_is_put_is_what_is_read(store, path):
    file = store.open(KEY)
    assert path == Path(store.root) / "ab" / f"{KEY}.safetensors"
    assert file.meta == META
    assert file.names == list(tensors())
    assert file.nbytes == path.stat().st_size
    file.verify()
    for name, tensor in tensors().items():
        assert torch.equal(file.tensor(name), tensor)
        assert file.tensor(name).dtype == tensor.dtype


def test_the_library_reads_it(path):
    found = load_file(path)
    for name, tensor in tensors().items():
        assert torch.equal(found.pop(name), tensor)
    assert all(name.startswith("pad.") for name in found)


def test_parts_lie_in_order_and_where_the_layout_says(store, path):
    file = store.open(KEY)
    end = 0
    with path.open("rb") as opened:
        for name, tensor in tensors().items():
            part = file.layout(name)
            assert part.offset >= end
            assert part.offset % tensor.itemsize == 0
            end = part.offset + part.nbytes
            raw = bytearray(os.pread(opened.fileno(), part.nbytes, part.offset))
            assert torch.equal(torch.frombuffer(raw, dtype=part.dtype).view(part.shape), tensor)
    assert end == file.nbytes


def test_every_dtype(store):
    every = {code: torch.ones(3).to(dtype) for code, dtype in DTYPES.items()}
    every |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4)}
    store.put(KEY, every, {})
    file = store.open(KEY, verify=True)
    for name, tensor in every.items():
        assert file.tensor(name).dtype == tensor.dtype
        assert torch.equal(file.tensor(name).float(), tensor.float())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"pad.0": torch.ones(2)},
        {"__metadata__": torch.ones(2)},
        {"a": torch.ones(2, dtype=torch.complex64)},
        {"a": torch.ones(2, 3).T},
    ],
)
def test_what_cannot_be_stored(store, wrong):
    with pytest.raises(ValueError, match=r"stored|without tensors"):
        store.put(KEY, wrong, {})
    with pytest.raises(ValueError, match="JSON"):
        store.put(KEY, tensors(), {"loss": float("nan")})
    assert not store.has(KEY)
    with pytest.raises(ValueError, match="64 hex"):
        store.has("../" + KEY)


def test_what_is_there_and_whole_is_not_written_again(store, path):
    before = path.stat()
    assert store.put(KEY, tensors(1), META) == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_is_damaged_is_written_again(store, path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert store.has(KEY)
    assert not store.has(KEY, verify=True)
    assert store.put(KEY, tensors(), META) == len(whole)
    assert path.read_bytes() == whole


def test_every_flipped_bit_and_every_cut_is_noticed(store, path):
    """But for the blanks that pad the header, whose bits no reader looks at."""
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    text_end = whole.rindex(b"}", 0, start) + 1
    places = [*range(0, text_end, 7), *range(start, len(whole), 5), 3, text_end - 1, start]
    for number, at in enumerate(places):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << number % 8]) + whole[at + 1 :])
        with pytest.raises(Damaged, match=r"safetensors is damaged \(.*make precompute"):
            store.open(KEY, verify=True)
    for length in (0, 1, 8, 9, start - 1, start, start + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            store.open(KEY)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged, match="bytes and was written with"):
        store.open(KEY)


def test_troubles_are_told_apart(store, path):
    with pytest.raises(Missing, match="is missing; make precompute builds it"):
        store.open(OTHER)
    target = Path(store.root) / "cd" / f"{OTHER}.safetensors"
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    with pytest.raises(Damaged, match="holds another chunk"):
        store.open(OTHER)
    target.unlink()
    target.mkdir()
    with pytest.raises(Damaged, match="is a directory"):
        store.open(OTHER)
    with pytest.raises(UserError, match="cannot write"):
        store.put(OTHER, tensors(), {})


def test_a_verified_file_is_looked_at_again_where_it_changed(path):
    ChunkFile(path).verify()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\xff\xfe")
    with pytest.raises(Damaged):
        ChunkFile(path).verify()


def test_use_is_noted_and_the_content_keeps_its_time(store, path):
    os.utime(path, ns=(10**18, 10**18))
    store.open(KEY)
    assert path.stat().st_mtime_ns == 10**18
    assert path.stat().st_atime_ns > 10**18
