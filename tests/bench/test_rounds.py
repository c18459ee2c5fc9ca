"""Turns, medians and spread; peak memory of one run; pages of a file in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from bench.memory import peak_of
from bench.rounds import Timed, interleave
from models.kv.pagecache import resident_share

CPU = torch.device("cpu")
MB = 10**6


def test_contestants_take_turns_and_the_warm_up_is_not_timed():
    log: list[str] = []
    clock = iter(range(1000))

    def contestant(name):
        def measure():
            log.append(name)
            return float(next(clock))

        return measure

    timed = interleave({name: contestant(name) for name in "abc"}, 3, CPU, "test", warm=["b"])
    assert log == [*"ac", *"abc" * 3]
    assert {name: t.ms for name, t in timed.items()} == {
        "a": [2.0, 5.0, 8.0],
        "b": [3.0, 6.0, 9.0],
        "c": [4.0, 7.0, 10.0],
    }
    assert timed["b"].peak_mb is None


def test_median_and_spread():
    timed = Timed([5.0, 1.0, 100.0, 3.0, 4.0])
    assert timed.median == 4.0
    assert timed.spread == [1.0, 100.0]


def test_a_peak_is_that_of_the_run_and_not_of_those_before():
    def use(megabytes):
        return lambda: np.ones(megabytes * MB // 8).sum()

    peaks = [peak_of(use(megabytes), CPU) for megabytes in (1, 200, 1, 100)]
    if peaks[0] is None:
        pytest.skip("this system cannot start its count of the peak anew")
    idle, large, after, middle = peaks
    assert large - idle == pytest.approx(199, abs=20)
    assert abs(after - idle) < 20
    assert middle - idle == pytest.approx(99, abs=20)


def test_pages_of_a_file_are_counted(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(os.urandom(4 * MB))
        file.flush()
        os.fsync(file.fileno())
    if resident_share(path) is None or not hasattr(os, "posix_fadvise"):
        pytest.skip("this system does not tell")
    assert resident_share(path) == 1.0
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_share(path) == 1.0:
        pytest.skip("the folder is in memory: nothing can be dropped")
    assert resident_share(path) == 0.0
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        os.pread(file.fileno(), MB, 0)
    assert resident_share(path) == pytest.approx(0.25, abs=0.01)
