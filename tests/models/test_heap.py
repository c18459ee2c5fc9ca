"""Memory that the process keeps: fewer page faults, and nothing where the C library is another."""

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from models import heap

ROOT = Path(__file__).resolve().parent.parent.parent
FAULTS = """
import resource, sys, torch
from models.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
hidden = torch.ones(10_000_000)
for turn in range(24):
    if turn == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    hidden.add(1).mul(hidden)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_large_tensors_meet_pages_that_are_there_already():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 2 * 40_000_000 // resource.getpagesize()  # of one turn's two tensors
    returned = faults("returned")
    assert returned > 15 * pages
    assert faults("kept") < returned / 2  # where a block lies is up to the heap: a few turns


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.keep_freed_memory() is False
