"""Pinned memory is taken before a clock runs: once for every size that PyTorch tells apart."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from models.kv import pinned


def test_one_block_for_every_power_of_two(monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "empty", lambda size, **how: taken.append((size, how["pin_memory"])))
    sizes = pinned.warm([1000, 1024, 1025, 0], SimpleNamespace(type="cuda"))
    assert sizes == [1024, 2048]
    assert taken == [(size, True) for size in (1024, 2048) for _ in range(pinned.AT_ONCE)]


def test_elsewhere_nothing_is_taken():
    assert pinned.warm([1000], torch.device("cpu")) == []
