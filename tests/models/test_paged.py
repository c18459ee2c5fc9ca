"""Planning and packing of paged rows against a brute-force reference in numpy."""

import numpy as np
import pytest
import torch

from models.attention.masked import MaskedRows
from models.attention.paged import (
    PAGE,
    Blocks,
    PagedRows,
    merge_folds,
    piece_pages,
    ranges,
    rest_mask,
    workspace,
)
from tests.models.fake_flashinfer import FakeFlashInfer, Wrapper

CPU = torch.device("cpu")


def scattered(count: int, n: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(n)[:count]).astype(np.int64)


CASES = {
    "scattered": scattered(150, 1000),
    "dense": scattered(900, 1000),
    "sparse": scattered(9, 1000),
    "page-edges": np.array([0, 63, 64, 65, 127, 128, 191, 192, 255, 256, 999]),
    "within-a-page": np.array([3, 5, 40]),
    "far": np.array([700, 702, 705]),
    "last": np.array([999]),
    "contiguous": np.arange(600, 700),
    "all": np.arange(1000),
}


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("case", sorted(CASES))
def test_shared_pages_and_rest_make_up_what_every_row_sees(case, size):
    positions = CASES[case]
    blocks = Blocks.cut(positions, size)
    mask = rest_mask(blocks, torch.from_numpy(positions)).numpy()
    sees = np.arange(1000)[None, :] <= positions[:, None]
    assert blocks.rows[0] == 0
    assert blocks.rows[-1] == len(positions)
    rebuilt, used = np.zeros_like(sees), 0
    for b, (start, end) in enumerate(zip(blocks.rows, blocks.rows[1:], strict=False)):
        assert 0 < end - start <= size
        first, length = blocks.rest_starts[b], blocks.rest_lengths[b]
        assert first == blocks.pages[b] * PAGE
        rebuilt[start:end, :first] = True
        part = mask[used : used + (end - start) * length].reshape(end - start, length)
        assert part[:, 0].all(), "a row without a key in the rest"
        rebuilt[start:end, first : first + length] = part
        used += part.size
    assert used == len(mask)
    assert (rebuilt == sees).all()
    assert (np.diff(blocks.pages) >= 0).all()
    assert (blocks.pages[: blocks.first_sharing] == 0).all()
    assert (blocks.pages[blocks.first_sharing :] > 0).all()


def test_the_rest_is_small_where_the_whole_mask_is_large():
    positions = scattered(1229, 8192)
    blocks = Blocks.cut(positions, 32)
    bits = int((blocks.sizes * blocks.rest_lengths).sum())
    assert bits < 0.04 * len(positions) * 8192


def test_ranges_are_laid_end_to_end():
    starts, counts = np.array([5, 0, 9]), np.array([3, 1, 2])
    assert ranges(starts, counts, CPU).tolist() == [5, 6, 7, 0, 9, 10]
    empty = np.zeros(0, dtype=np.int64)
    assert ranges(empty, empty, CPU).tolist() == []


@pytest.mark.parametrize("limit", [1, 5, 40, 128, 1000])
def test_pieces_are_as_fine_as_the_limit_allows(limit):
    pages = Blocks.cut(scattered(1229, 8192), 32).pages
    pages = pages[pages > 0]
    sizes = [4, 8, 16, 32, 64]
    few = [s for s in sizes if sum(-(-p // s) for p in pages.tolist()) <= limit]
    assert piece_pages(pages, limit) == (few[0] if few else None)


def cache(n: int, kv_heads: int, capacity: int, dim: int = 64, dtype=torch.float32):
    """Keys and values of the last layer of a buffer with room to spare, as the engine has them."""
    generator = torch.Generator().manual_seed(n + kv_heads)
    kv = torch.randn(2, 2, kv_heads, capacity, dim, generator=generator).to(dtype)
    return kv[0, 1][None, :, :n], kv[1, 1][None, :, :n]


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 2), (14, 2)])
@pytest.mark.parametrize("case", sorted(CASES))
def test_paged_rows_equal_masked_rows(case, heads, kv_heads):
    host = CASES[case]
    positions = torch.from_numpy(host)
    key, value = cache(1000, kv_heads, 1003)
    query = torch.randn(1, heads, len(host), 64, generator=torch.Generator().manual_seed(1))
    got = PagedRows(FakeFlashInfer, positions, host).attend(query, key, value, 0.3)
    reference = MaskedRows(positions, 1000).attend(query, key, value, 0.3)
    assert got.shape == (1, len(host), heads, 64)
    assert torch.allclose(got, reference, atol=1e-5)


def test_a_plan_serves_all_layers_and_yields_to_another_pass():
    made = Wrapper.made
    key, value = cache(1000, 2, 1000, dtype=torch.bfloat16)
    query = torch.randn(1, 4, 150, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    passes = []
    for seed in (1, 2):
        host = scattered(150, 1000, seed)
        passes.append((PagedRows(FakeFlashInfer, torch.from_numpy(host), host), host))
    space = workspace(FakeFlashInfer, CPU, torch.bfloat16, 64, "fa2")
    for rows, host in [passes[0], passes[0], passes[1], passes[0]]:
        before = space.owner
        got = rows.attend(query, key, value, 0.3)
        assert space.owner is rows
        reference = MaskedRows(torch.from_numpy(host), 1000).attend(query, key, value, 0.3)
        assert torch.allclose(got, reference, atol=2e-2)
        if before is rows:
            assert rows._planned
    assert Wrapper.made <= made + 2


@pytest.mark.parametrize(("heads", "dim", "parts"), [(64, 128, 1), (96, 128, 2), (40, 256, 2)])
def test_more_heads_than_the_merging_kernel_takes_are_merged_in_parts(heads, dim, parts):
    """Its block of threads holds 64 heads of 128 numbers; more would not even be launched."""
    assert merge_folds(heads, dim) == parts
    host = scattered(40, 300)
    positions = torch.from_numpy(host)
    key, value = cache(300, 8, 300, dim)
    query = torch.randn(1, heads, len(host), dim, generator=torch.Generator().manual_seed(1))
    got = PagedRows(FakeFlashInfer, positions, host).attend(query, key, value, 0.1)
    reference = MaskedRows(positions, 300).attend(query, key, value, 0.1)
    assert torch.allclose(got, reference, atol=1e-5)


@pytest.mark.parametrize(("heads", "dim"), [(67, 128), (128, 256), (1, 64), (14, 64)])
def test_every_number_of_heads_can_be_divided(heads, dim):
    parts = merge_folds(heads, dim)
    assert heads % parts == 0
    assert heads // parts * dim // 8 <= 1024


def test_a_workspace_made_in_inference_mode_can_be_written_outside():
    workspace.cache_clear()
    host = scattered(40, 300)
    with torch.inference_mode():
        rows = PagedRows(FakeFlashInfer, torch.from_numpy(host), host)
        rows.plan(4, 2, 64, torch.float32, 0.1, CPU)
    assert workspace(FakeFlashInfer, CPU, torch.float32, 64, "fa2").owner is rows
