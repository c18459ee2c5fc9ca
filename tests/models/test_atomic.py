"""Whose fault an error inside ``writing`` is, and what is left on the disk then."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import contextmanager

import pytest
import torch

from models import atomic
from models.atomic import disk_errors, remove_leftovers, writing
from models.errors import UserError

FULL = "the disk is full"


@contextmanager
def small_files():
    """No file may grow past 4 kB: a refusal of the system's own, in the middle of a write.

    Not a fixture: that would last while the runner writes its report, into a longer file perhaps.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def attempt(path, *steps):
    """Write ``path``: bytes go into the file, functions are called with it, errors are raised."""
    with writing(path) as file:
        for step in steps:
            if isinstance(step, bytes):
                file.write(step)
            elif callable(step):
                step(file)
            else:
                raise step


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with writing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with pytest.raises(KeyboardInterrupt):
        attempt(path, b"second", KeyboardInterrupt())
    assert path.read_bytes() == b"first"
    assert listing(path.parent) == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "rows.jsonl"),
        PermissionError(13, "Permission denied", "rows.jsonl"),
        OSError(28, "No space left on device"),  # of another file than ours
        OSError(5, "Input/output error"),
        ConnectionResetError(104, "Connection reset by peer"),
        BrokenPipeError(32, "Broken pipe"),
        TimeoutError("timed out"),
        RuntimeError("a bug"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.args[0]}",
)
def test_the_errors_of_the_block_stay_its_own(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        attempt(tmp_path / "file", b"x" * 100_000, error)
    assert caught.value is error
    assert listing(tmp_path) == []


def test_a_missing_file_that_the_block_reads_is_no_trouble_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="rows"), writing(tmp_path / "file") as file:
        file.write((tmp_path / "rows").read_bytes())


def test_a_closed_socket_in_the_block_is_no_trouble_of_writing(tmp_path):
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError), writing(tmp_path / "file"):
        ours.sendall(b"x")


@pytest.mark.parametrize("size", [100, 5000, 1_000_000])  # refused at flush, or inside write
def test_a_full_disk_is_told(tmp_path, size):
    path = tmp_path / "file"
    with pytest.raises(UserError, match=rf"cannot write {path}: {FULL}"), small_files():
        attempt(path, b"x" * 4090, b"x" * size)
    assert listing(tmp_path) == []


def test_a_full_disk_behind_a_librarys_own_error_is_told(tmp_path):
    path = tmp_path / "file"
    told = pytest.raises(UserError, match=rf"cannot write {path}: {FULL}")
    with told, small_files(), writing(path) as file:
        torch.save({"kv": torch.zeros(100_000)}, file)
    assert listing(tmp_path) == []


def swallow_the_refusal(file):
    with pytest.raises(OSError, match="File too large"):
        file.write(b"x" * 1_000_000)


def test_a_full_disk_behind_an_error_without_a_cause_is_told(tmp_path):
    with pytest.raises(UserError, match=FULL), small_files():
        attempt(tmp_path / "file", swallow_the_refusal, RuntimeError("unexpected pos"))


def test_an_interrupt_stays_one_even_on_a_full_disk(tmp_path):
    with pytest.raises(KeyboardInterrupt), small_files():
        attempt(tmp_path / "file", swallow_the_refusal, KeyboardInterrupt())


def test_refusals_of_the_folder_are_told(tmp_path):
    (tmp_path / "in the way").touch()
    for path in (tmp_path / "in the way" / "file", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=f"cannot write {path}"), writing(path):
            raise AssertionError("nothing may be computed for it")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    path = tmp_path / "folder"  # a folder that is not empty is never replaced
    with pytest.raises(UserError, match=f"cannot write {path}"), writing(path):
        pass
    assert listing(tmp_path) == ["folder", "in the way"]


def test_disk_errors_without_a_text_of_the_system(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*: odd; name"), disk_errors(tmp_path):
        raise OSError("odd")


def test_temporary_names_tell_machines_apart(tmp_path, monkeypatch):
    """Two machines share the folder and, by chance, the pid: neither writes the other's file."""
    path = tmp_path / "file"
    with writing(path) as ours:
        ours.write(b"ours")
        with monkeypatch.context() as patch:
            patch.setattr(atomic.socket, "gethostname", lambda: "other")
            with writing(path) as theirs:
                theirs.write(b"theirs")
                names = [name for name in listing(tmp_path) if str(os.getpid()) in name]
                assert len(names) == 2
                assert sum(".other." in name for name in names) == 1
        assert path.read_bytes() == b"theirs"
    assert path.read_bytes() == b"ours"


def test_leftovers_are_temporary_files_only(tmp_path):
    for name in (".file.host.12.tmp", ".file.12.tmp", "file", ".lock", "file.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert listing(tmp_path) == [".lock", "file", "file.tmp"]
