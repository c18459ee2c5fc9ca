"""Slots and positions: what a layer's rows hold, whatever was evicted from it."""

from __future__ import annotations

import pytest
import torch

from models.kv.cache import FusedCache
from models.places import places

SHAPE = (3, 2, 8)  # layers, K/V heads, dimensions


@pytest.fixture
def filled() -> FusedCache:
    """Twelve rows in every layer; a row's first value is its position."""
    cache = FusedCache(SHAPE, torch.device("cpu"), torch.float32)
    cache.reserve(20)
    cache.kv[:] = torch.arange(20.0)[:, None]
    for layer in cache.layers:
        layer.place(slice(0, 12), 12)
    return cache


def held(cache: FusedCache, layer: int) -> list[list[int]]:
    """The positions that a layer's rows hold by their values, head by head."""
    return cache.kv[0, layer, :, : cache.layers[layer].length, 0].int().tolist()


def test_every_layer_knows_its_own_rows(filled):
    chosen = torch.tensor([[0, 3, 4, 11], [1, 2, 10, 11]])
    filled.layers[1].keep(chosen)
    filled.layers[2].keep(torch.tensor([[5, 6], [0, 11]]))
    assert filled.lengths == [12, 4, 2]
    assert filled.length == 12
    assert [layer.seen for layer in filled.layers] == [12, 12, 12]
    assert [layer.get_seq_length() for layer in filled.layers] == [12, 12, 12]
    assert [layer.get_mask_sizes(1) for layer in filled.layers] == [(12, 0), (4, 0), (2, 0)]
    for number, layer in enumerate(filled.layers):
        assert layer.positions.tolist() == held(filled, number)
    assert filled.bytes == (12 + 4 + 2) * 2 * 2 * 8 * 4


def test_rows_that_follow_stand_behind_those_that_stayed(filled):
    filled.layers[1].keep(torch.tensor([[0, 3, 4, 11], [1, 2, 10, 11]]))
    at = torch.arange(12, 15)
    found = places(filled, at, slice(12, 15), 15, "sdpa")
    assert [place.slots for place in found] == [slice(12, 15), slice(4, 7), slice(12, 15)]
    assert [place.length for place in found] == [15, 7, 15]
    assert found[0] is found[2]
    assert found[1].rows.mask.sum(1).tolist() == [5, 6, 7]
    states = at.float()[None, None, :, None].expand(1, 2, 3, 8)
    for layer, place in zip(filled.layers, found, strict=True):
        layer.place(place.slots, place.length)
        layer.update(states, states)
    assert filled.layers[1].positions.tolist() == held(filled, 1)
    assert held(filled, 1)[0] == [0, 3, 4, 11, 12, 13, 14]
    assert filled.seen == 15
    scattered = torch.tensor([12, 14])
    found = places(filled, scattered, scattered, 15, "sdpa")
    assert found[1].slots.tolist() == [4, 6]
    assert found[0].slots is scattered


def test_rows_may_leave_again_and_again(filled):
    layer = filled.layers[0]
    layer.keep(torch.tensor([[0, 5, 9], [2, 3, 4]]))
    layer.place(slice(3, 5), 5)
    filled.kv[:, 0, :, 3:5] = torch.tensor([12.0, 13.0])[:, None]
    layer.keep(torch.tensor([[1, 3, 4], [0, 2, 4]]))
    assert layer.positions.tolist() == held(filled, 0) == [[5, 12, 13], [2, 4, 13]]
    assert layer.seen == 14


def test_one_cannot_go_back_to_what_was_evicted(filled):
    filled.rewind(10)
    assert filled.lengths == [10, 10, 10]
    with pytest.raises(ValueError, match="cannot go back to 11"):
        filled.rewind(11)
    filled.layers[1].keep(torch.tensor([[0, 3, 9], [1, 2, 9]]))
    filled.rewind(10)
    with pytest.raises(ValueError, match="cannot go back to 9 tokens of 10"):
        filled.rewind(9)
    with pytest.raises(ValueError, match="position 9 lies among evicted ones"):
        places(filled, torch.tensor([9, 10]), slice(9, 11), 11, "sdpa")


def test_a_copy_goes_on_by_itself(filled):
    filled.layers[1].keep(torch.tensor([[0, 3], [1, 2]]))
    other = FusedCache(SHAPE, torch.device("cpu"), torch.float32, torch.zeros(2, 3, 2, 14, 8))
    other.copy(filled)
    assert other.lengths == filled.lengths
    other.layers[0].keep(torch.tensor([[0], [1]]))
    other.layers[1].place(slice(2, 3), 3)
    assert filled.lengths == [12, 2, 12]
    assert held(filled, 0)[0] == list(range(12))
    assert other.seen == 12
    filled.clear()
    assert filled.lengths == [0, 0, 0]
    assert filled.layers[1].kept is None
    assert held(other, 0) == [[0], [1]]
