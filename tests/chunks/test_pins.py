"""What a running process reads is not removed, and a dead one keeps nothing."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from models.chunks.pins import remove_unused
from models.chunks.store import ChunkStore

KEY = "ab" * 32


def put(store: ChunkStore) -> None:
    store.put(KEY, {"000.k.rows": torch.ones(4)}, {})


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "model" / "chunks")


@pytest.fixture
def path(store):
    put(store)
    return store.open(KEY).path


def in_child(work) -> int:
    """Run ``work`` in another process; its exit code, or its signal as a negative number."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = int(work() or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_pinned_file_stays_as_long_as_it_is_pinned(store, path):
    with store.pin([KEY]), store.pin([KEY, "cd" * 32]):
        pass
    with store.pin([KEY]):
        with store.pin([KEY]):
            pass
        assert in_child(lambda: remove_unused(path)) == 0
        assert path.exists()
    assert in_child(lambda: remove_unused(path)) == 1
    assert not path.exists()


def test_what_is_put_or_mended_while_it_is_pinned_is_pinned(store, path):
    path.unlink()
    with store.pin([KEY]):
        put(store)
        assert in_child(lambda: remove_unused(path)) == 0
        path.write_bytes(b"damaged")
        put(store)
        assert in_child(lambda: remove_unused(path)) == 0
        assert store.has(KEY, verify=True)


def test_a_dead_process_pins_nothing(store, path):
    def killed() -> None:
        with ChunkStore(store.root).pin([KEY]):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert remove_unused(path)
    assert not path.exists()


def test_a_file_that_is_gone_is_gone(path):
    path.unlink()
    assert remove_unused(path)
