"""The C++ kernel against softmax attention in float64, in every shape that a prompt can bring."""

from __future__ import annotations

import pytest
import torch

from models.attention import native
from models.attention.native import NativeRows
from models.engine import Engine
from tests.conftest import FAMILIES, Family, build, random_prompt

REASON = native.obstacle(torch.float32, 64)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no kernel: {REASON}")
F32, BF16 = torch.float32, torch.bfloat16


def draw(group: int, rows: int, keys: int, dim: int, dtype=F32, kv_heads: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def one(heads: int, n: int):
        return torch.randn(1, heads, n, dim, generator=generator).to(dtype)

    return one(group * kv_heads, rows), one(kv_heads, keys), one(kv_heads, keys)


def exactly(query, key, value, positions, scale):
    """In float64, ``[1, R, H, D]``."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, 1) for x in (key, value))
    scores = query.double() @ key.transpose(2, 3) * scale
    hidden = torch.arange(key.shape[2])[None] > positions[:, None]
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def scattered(rows: int, keys: int):
    return torch.randperm(keys, generator=torch.Generator().manual_seed(1))[:rows].sort().values


POSITIONS = {
    "one key": (torch.tensor([0]), 1),
    "the last": (torch.tensor([99]), 100),
    "one of many": (torch.tensor([1200]), 1300),
    "whole": (torch.arange(150), 150),
    "a block of keys": (torch.arange(64), 64),
    "a tail": (torch.arange(570, 601), 601),
    "scattered": (scattered(120, 700), 700),
    "few": (torch.tensor([3, 64, 65, 511, 512, 513, 1100]), 1101),
    "far apart": (torch.tensor([0, 600]), 601),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("dim", [8, 16, 48, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 2, 3, 7, 8])
def test_any_rows_of_any_heads(group, dim, dtype):
    for what, (positions, n) in POSITIONS.items():
        query, key, value = draw(group, len(positions), n, dim, dtype)
        found = NativeRows(positions, n).attend(query, key, value, dim**-0.5)
        assert found.shape == (1, len(positions), 2 * group, dim)
        assert found.dtype == dtype
        assert found.is_contiguous()
        error = (found - exactly(query, key, value, positions, dim**-0.5)).abs().max()
        assert error < (5e-6 if dtype == F32 else 2e-2), what


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_row_does_not_depend_on_what_else_is_computed(dtype):
    """Full and fused prefill give equal bits where they compute the same, on any threads."""
    query, key, value = draw(3, 1300, 1300, 32, dtype)
    whole = NativeRows(torch.arange(1300), 1300).attend(query, key, value, 0.2)
    for positions in (scattered(170, 1300), torch.arange(130, 1160), torch.arange(1270, 1300)):
        rows = query[:, :, positions]
        found = NativeRows(positions, 1300).attend(rows, key, value, 0.2)
        assert torch.equal(found, whole[:, positions])
    threads = torch.get_num_threads()
    for positions in (torch.arange(1300), torch.tensor([1280])):
        rows = NativeRows(positions, 1300)
        outcomes = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outcomes.append(rows.attend(query[:, :, positions], key, value, 0.2))
        torch.set_num_threads(threads)
        assert torch.equal(outcomes[0], outcomes[1])
        assert torch.equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("rows", [1, 90])
def test_views_are_read_as_they_lie(rows, dtype):
    positions = scattered(rows, 300)
    query, key, value = draw(3, rows, 300, 24, dtype)
    wanted = NativeRows(positions, 300).attend(query, key, value, 0.2)
    cache = torch.full((2, 5, 2, 333, 24), torch.nan, dtype=dtype)
    cache[0, 3, :, :300], cache[1, 3, :, :300] = key[0], value[0]
    projected = torch.full((1, 300, 2, 30), torch.nan, dtype=dtype)
    projected[..., :24] = key.transpose(1, 2)
    mirrored = query.transpose(1, 3).contiguous().transpose(1, 3)
    for q, k in (
        (query.transpose(1, 2).contiguous().transpose(1, 2), cache[0, 3][None, :, :300]),
        (mirrored, projected[..., :24].transpose(1, 2)),
    ):
        found = NativeRows(positions, 300).attend(q, k, cache[1, 3][None, :, :300], 0.2)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("rows", [1, 40, 200])
def test_keys_beyond_the_last_row_are_not_read(rows, dtype):
    positions = scattered(rows, 301)
    query, key, value = draw(3, rows, 400, 16, dtype)
    wanted = exactly(query, key, value, positions, 0.25)
    key[:, :, int(positions[-1]) + 1 :] = torch.nan
    value[:, :, int(positions[-1]) + 1 :] = torch.nan
    found = NativeRows(positions, 400).attend(query, key, value, 0.25)
    assert torch.allclose(found.double(), wanted, atol=5e-6 if dtype == F32 else 2e-2)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("what", [0, 1, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [[70], [40, 41, 70, 90, 600], list(range(200))])
def test_what_is_no_number_stays_none(rows, bad, what, dtype):
    """In a query, a key or a value: a row that reads it shows it, as far as softmax does."""
    positions = torch.tensor(rows)
    tensors = draw(3, len(rows), 650, 16, dtype)
    tensors[what][0, 0, 0 if what == 0 else 37, 5] = bad
    wanted = exactly(*tensors, positions, 0.25)
    wanted[:, positions < 37 * (what > 0)] = 0
    assert not wanted.isfinite().all()
    found = NativeRows(positions, 650).attend(*tensors, 0.25)
    assert not found[~wanted.isfinite()].isfinite().any()


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_row_without_any_finite_score_has_no_average(dtype):
    query, key, value = torch.zeros(3, 1, 1, 5, 8, dtype=dtype)
    query[..., 0], key[..., 0] = -torch.inf, 1
    for rows in (torch.arange(5), torch.tensor([4])):
        found = NativeRows(rows, 5).attend(query[:, :, rows], key, value, 1.0)
        assert found.isnan().all()


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("step", [1e3, -1e3, 1e30, -1e30])
@pytest.mark.parametrize("rows", [[639], list(range(0, 640, 3))])
def test_extreme_scores_choose_one_key(rows, step, dtype):
    """Scores that grow or fall with the key leave all weight to the last key, or to the first."""
    positions = torch.tensor(rows)
    query, key, value = draw(1, len(rows), 640, 16, dtype, kv_heads=1)
    query[:], key[:] = 0, 0
    query[..., 0] = step
    key[0, 0, :, 0] = torch.arange(640) // 2 if dtype == F32 else 2.0 ** (torch.arange(640) // 64)
    found = NativeRows(positions, 640).attend(query, key, value, 1.0)
    assert torch.allclose(
        found.double(),
        exactly(query, key, value, positions, 1.0),
        atol=1e-6 if dtype == F32 else 2e-2,
    )


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_equals_the_librarys_forward(name, prompt):
    family = Family(name)
    engine = Engine(build(name), "native")
    wanted = family.logits(prompt.ids)[-1]
    prefill = engine.full_prefill(prompt)
    assert torch.allclose(prefill.logits, wanted, atol=1e-4)
    answer = engine.decode(prefill, 5, ()).tokens
    ids = list(prompt.ids)
    for token in answer:
        assert token == int(family.logits(ids)[-1].argmax())
        ids.append(token)


def test_it_is_what_a_cpu_gets_and_what_capture_uses(prompt, monkeypatch):
    engine = Engine(build("llama"))
    assert engine.backend == engine.modules.backend == "native"
    engine = Engine(build("llama", head_dim=20), "auto")
    assert engine.backend == "blocked"
    engine.full_prefill(random_prompt(3, [20], 5))


@pytest.mark.parametrize(
    ("positions", "keys"), [([5], 5), ([3, 2], 9), ([2, 2], 9), ([-1, 2], 9), ([0, 9], 9)]
)
def test_positions_that_would_read_elsewhere_are_refused(positions, keys):
    with pytest.raises(ValueError, match="positions from"):
        NativeRows(torch.tensor(positions), keys)


def test_tensors_that_do_not_fit_are_refused():
    rows = NativeRows(torch.tensor([2, 7]), 9)
    query, key, value = draw(3, 2, 9, 16)
    for wrong in (
        (query, key[:, :, :7], value[:, :, :7]),
        (query[:, :, :1], key, value),
        (query[:, :5], key, value),
        (query, key, value[:, :, :8]),
        (query[..., :8], key, value),
        (query.bfloat16(), key, value),
        (query.half(), key.half(), value.half()),
        (query[..., :12], key[..., :12], value[..., :12]),
        (query.repeat(2, 1, 1, 1), key.repeat(2, 1, 1, 1), value.repeat(2, 1, 1, 1)),
    ):
        with pytest.raises(ValueError, match=r"kernel|keys|rows"):
            rows.attend(*wrong, 0.25)
