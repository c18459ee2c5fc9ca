"""Eviction policies: each scorer against brute force, which rows stay, and how many."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from models import eviction
from models.errors import UserError
from models.eviction import BasePolicy, Rows, chosen, keep
from models.eviction import attention as attention_of_rows
from models.eviction.base import accumulated
from models.eviction.rkv import importance, mean_cosine
from models.finite import NotFinite

HEADS, KV, DIM, SCALE = 6, 2, 8, 0.4
SPECS = (
    "streaming", "snapkv:observe=5", "snapkv:observe=5:pooling=max:group=max",
    "snapkv:observe=5:block=4", "pyramidkv:observe=5", "knorm", "h2o", "rkv:observe=4",
    "rkv:observe=4:spare=3:near=0.1", "rkv:observe=4:form=batch",
)  # fmt: skip


def rows_of(lengths: list[int], seed: int = 0, queries: int = 99) -> Rows:
    """A batch of random rows of these lengths, padded on the left with noise."""
    generator = torch.Generator().manual_seed(seed)
    n, size = len(lengths), max(lengths)
    keys = torch.randn(n, KV, size, DIM, generator=generator)
    asked = torch.randn(n, HEADS, size, DIM, generator=generator)[:, :, -queries:]
    valid = torch.arange(size) >= size - torch.tensor(lengths)[:, None]
    sums = torch.rand(n, KV, size, generator=generator)
    return Rows(keys, valid, SCALE, asked, sums, torch.tensor(lengths) // 2)


def seen_by(policy, rows: Rows) -> Rows:
    """As a cache hands them over: the queries within the policy's window."""
    if policy.accumulates:
        return rows
    queries = rows.queries[:, :, -policy.window :] if policy.window else None
    return replace(rows, queries=queries)


def alone(rows: Rows, b: int) -> Rows:
    """One row of a batch without its pads."""
    at = int((~rows.valid[b]).sum())
    q = min(rows.queries.shape[2], rows.valid.shape[1] - at) if rows.queries is not None else 0
    return Rows(
        rows.keys[b : b + 1, :, at:],
        rows.valid[b : b + 1, at:],
        rows.scale,
        rows.queries[b : b + 1, :, -q:] if q else None,
        rows.sums[b : b + 1, :, at:],
        rows.stay[b : b + 1],
    )


def attention(rows: Rows, head: int, i: int) -> list[float]:
    """Weights of query ``i`` from the end over all keys, in double, written out."""
    size, asks = rows.keys.shape[2], rows.queries.shape[2]
    query, own = rows.queries[0, head, i].double(), head // (HEADS // KV)
    last = size - asks + i
    logits = [
        float(query @ rows.keys[0, own, n].double()) * SCALE if n <= last else -math.inf
        for n in range(size)
    ]
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def group(kv: int) -> range:
    return range(kv * (HEADS // KV), (kv + 1) * (HEADS // KV))


def summed(rows: Rows, kv: int, asks: int) -> list[float]:
    """Attention that each row receives from all queries of a K/V head's group."""
    parts = [attention(rows, h, i) for h in group(kv) for i in range(asks)]
    return [sum(part[n] for part in parts) for n in range(rows.keys.shape[2])]


def close(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found[0], torch.tensor(expected))


def test_streaming_keeps_sinks_and_the_latest():
    rows = rows_of([12])
    indices, _ = keep(eviction.build("streaming:first=3").score(rows), 7, rows.valid)
    assert indices[0].tolist() == [[0, 1, 2, 8, 9, 10, 11]] * KV


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("over", ["mean", "max"])
@pytest.mark.parametrize("block", [1, 4])
def test_snapkv_is_its_formula(pooling, over, block):
    policy = eviction.build(f"snapkv:observe=5:pooling={pooling}:group={over}:block={block}")
    rows = seen_by(policy, rows_of([19]))
    expected = []
    for kv in range(KV):
        heads = [[attention(rows, h, i) for i in range(5)] for h in group(kv)]
        votes = [[sum(row[n] for row in head) for n in range(14)] for head in heads]
        merge = max if over == "max" else lambda many: sum(many) / len(many)
        merged = [merge([head[n] for head in votes]) for n in range(14)]
        near = [merged[max(0, n - 2) : n + 3] for n in range(14)]
        pooled = [max(each) if pooling == "max" else sum(each) / len(each) for each in near]
        blocks = [pooled[n // block * block : n // block * block + block] for n in range(14)]
        expected.append([sum(each) / len(each) for each in blocks] + [math.inf] * 5)
    close(policy.score(rows), expected)


def test_whole_blocks_stay_and_the_next_best_ones_latest_tokens_fill_the_rest():
    policy = eviction.build("snapkv:observe=5:block=4")
    rows = seen_by(policy, rows_of([29]))
    scores = policy.score(rows)
    indices, _ = keep(scores, 5 + 4 + 4 + 2, rows.valid)
    for kv in range(KV):
        means = {n // 4: float(scores[0, kv, n]) for n in range(24)}
        best = sorted(means, key=means.get, reverse=True)[:3]
        whole = {n for block in best[:2] for n in range(4 * block, 4 * block + 4)}
        rest = {4 * best[2] + 2, 4 * best[2] + 3}
        assert set(indices[0, kv].tolist()) == whole | rest | set(range(24, 29))


def test_knorm_keeps_short_keys():
    rows = rows_of([9])
    expected = [
        [-math.sqrt(sum(x * x for x in key)) for key in head] for head in rows.keys[0].tolist()
    ]
    close(eviction.build("knorm").score(rows), expected)


def test_h2o_sums_attention_over_passes_and_keeps_the_latest(monkeypatch):
    monkeypatch.setattr(attention_of_rows, "BLOCK", 7)  # fewer queries at a time than there are
    policy = eviction.build("h2o:recent=0.4")
    rows = rows_of([30])
    sums = policy.accumulate(replace(rows, sums=None))
    close(sums, [summed(rows, kv, 30) for kv in range(KV)])
    step = replace(rows, queries=rows.queries[:, :, -1:], sums=sums)
    more = policy.accumulate(step)
    close(more - sums, [summed(step, kv, 1) for kv in range(KV)])
    scores = policy.score(replace(step, sums=more, stay=torch.tensor([11])))
    assert torch.isinf(scores[..., -4:]).all()
    assert torch.equal(scores[..., :-4], more[..., :-4])


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_rkv_is_its_formula(spare):
    policy = eviction.build(f"rkv:observe=4:spare={spare}:near=0.2:mix=0.3")
    rows = seen_by(policy, rows_of([21]))
    expected = []
    for kv in range(KV):
        looked = [0.0] * 21
        for i in range(4):
            own = [rows.queries[0, h, i].double() for h in group(kv)]
            logits = [
                max(float(q @ rows.keys[0, kv, n].double()) for q in own) * SCALE
                if n <= 17 + i
                else -math.inf
                for n in range(21)
            ]
            total = sum(map(math.exp, logits))
            looked = [a + math.exp(b) / total / 4 for a, b in zip(looked, logits, strict=True)]
        important = [max(looked[max(0, n - 3) : n + 4]) for n in range(21)]
        unit = [key / key.norm() for key in rows.keys[0, kv].double()]
        mean = [0.0] * 21
        for i in range(21):
            cosines = {j: float(unit[i] @ unit[j]) for j in range(21) if j != i}
            alike = sorted(j for j, value in cosines.items() if value > 0.2)
            spared = alike[-spare:] if spare else []
            for j, value in cosines.items():
                mean[j] += 0.0 if j in spared else value / 20
        total = sum(map(math.exp, mean))
        z = [0.3 * a - 0.7 * math.exp(b) / total for a, b in zip(important, mean, strict=True)]
        expected.append([*z[:17], *[math.inf] * 4])
    close(policy.score(rows), expected)


def test_rkvs_batch_form_adds_the_softmax_of_minus_the_cosine():
    policy = eviction.build("rkv:observe=4:form=batch:mix=0.3")
    rows = seen_by(policy, rows_of([11]))
    likeness = mean_cosine(rows.keys, rows.valid)
    expected = 0.3 * importance(rows, 7) + 0.7 * torch.softmax(-likeness, -1)
    torch.testing.assert_close(policy.score(rows)[..., :7], expected[..., :7])


def test_near_duplicates_go_and_the_latest_of_them_stays():
    policy = eviction.build("rkv:observe=2:mix=0:near=0.9")
    rows = seen_by(policy, rows_of([12], seed=3))
    keys = rows.keys.clone()
    keys[:, :, [2, 5, 8]] = keys[:, :, [2]]
    scores = policy.score(replace(rows, keys=keys))[0]
    assert (scores[:, 2] < scores[:, 8]).all()
    assert (scores[:, 5] < scores[:, 8]).all()
    assert (scores[:, :10].argmin(-1) == 2).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_padded_row_is_scored_as_if_it_were_alone(spec):
    policy = eviction.build(spec)
    batch = seen_by(policy, rows_of([23, 9, 3, 23, 1], queries=23))
    if policy.accumulates:
        batch = replace(batch, sums=policy.accumulate(batch))
    scores = policy.score(batch)
    assert (scores.masked_select(~batch.valid[:, None]) == -torch.inf).all()
    for b in range(5):
        own = alone(batch, b)
        if policy.accumulates:
            own = replace(own, sums=policy.accumulate(replace(own, sums=None)) + own.sums * 0)
            found = policy.accumulate(replace(batch, sums=None))[b : b + 1]
            torch.testing.assert_close(found[..., batch.valid[b]], own.sums)
            continue
        torch.testing.assert_close(scores[b : b + 1, :, batch.valid[b]], policy.score(own))


@pytest.mark.parametrize("spec", SPECS)
def test_what_pads_hold_changes_nothing(spec):
    policy = eviction.build(spec)
    batch = seen_by(policy, rows_of([17, 6], queries=17))
    noise = batch.keys.clone()
    noise[1, :, :11] = torch.nan
    asked = batch.queries
    if asked is not None:
        asked = asked.clone()
        asked[1, :, : max(0, asked.shape[2] - 6)] = torch.nan
    other = replace(batch, keys=noise, queries=asked)
    torch.testing.assert_close(policy.score(other), policy.score(batch))


def test_keep_takes_the_highest_in_temporal_order_of_equal_ones_the_later():
    scores = torch.tensor([[[5.0, 1.0, 9.0, 1.0, 1.0]], [[9.0, 9.0, 0.0, 3.0, 4.0]]])
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    indices, stays = keep(scores, torch.tensor([4, 2]), valid)
    assert indices[0, 0].tolist() == [0, 2, 3, 4]
    assert indices[1, 0, 2:].tolist() == [3, 4]
    assert stays.tolist() == [[True] * 4, [False, False, True, True]]


def test_keep_against_sorting_by_hand():
    generator = torch.Generator().manual_seed(5)
    scores = torch.randint(0, 6, (3, KV, 30), generator=generator).float()  # many are equal
    valid = torch.arange(30) >= torch.tensor([0, 11, 28])[:, None]
    capacity = torch.tensor([7, 30, 1])
    indices, stays = keep(scores, capacity, valid)
    for b, room in enumerate(capacity.tolist()):
        own = [n for n in range(30) if valid[b, n]]
        for kv in range(KV):
            best = sorted(own, key=lambda n: (float(scores[b, kv, n]), n))[-room:]
            assert indices[b, kv][stays[b]].tolist() == sorted(best)


def test_what_keep_refuses():
    valid = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(NotFinite, match="scores hold NaN"):
        keep(torch.tensor([[[1.0, torch.nan, 1.0, 1.0]]]), 2, valid)
    with pytest.raises(UserError, match="leave no row"):
        keep(torch.ones(1, 1, 4), 0, valid)
    with pytest.raises(UserError, match="pads alone"):
        keep(torch.ones(2, 1, 4), 2, torch.tensor([[True] * 4, [False] * 4]))
    with pytest.raises(UserError, match="pad on the left"):
        keep(torch.ones(1, 1, 4), 2, torch.tensor([[True, True, True, False]]))


@dataclass
class Returns(BasePolicy):
    """Whatever a function makes of the rows."""

    made: object = None

    def score(self, rows):
        return self.made(rows)

    def accumulate(self, rows):
        return self.made(rows)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            lambda rows: rows.keys.norm(dim=-1).mean(1, keepdim=True),  # one for all heads
            "returned float32 [1, 1, 9]: scores and sums are floats, [1, 2, 9]",
        ),
        (lambda rows: rows.keys.norm(dim=-1)[..., :-1], "returned float32 [1, 2, 8]: scores"),
        (lambda rows: rows.keys.norm(dim=-1).long(), "returned int64 [1, 2, 9]: scores"),
        (lambda rows: None, "returned a NoneType, not a tensor: scores"),
        (lambda rows: 1 / 0, "failed with ZeroDivisionError: division by zero ("),
    ],
)
def test_what_are_no_scores_is_told_in_one_line(made, why):
    rows, policy = rows_of([9]), Returns(made=made)
    for asked in (
        lambda: chosen(policy, rows, torch.tensor([9]), 0, 4, decoding=False),
        lambda: accumulated(policy, rows),
    ):
        with pytest.raises(UserError) as caught:
            asked()
        assert str(caught.value).startswith("policy test_eviction ")
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def test_scores_of_nan_are_refused():
    rows, policy = rows_of([9]), Returns(made=lambda rows: rows.keys.norm(dim=-1) * math.nan)
    with pytest.raises(NotFinite):
        chosen(policy, rows, torch.tensor([9]), 0, 4, decoding=False)


@pytest.mark.parametrize("n_layers", [1, 2, 4, 28, 30, 32])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_pyramid_falls_and_keeps_as_much_as_an_even_share(n_layers, share):
    pyramid = eviction.build("pyramidkv", keep=share)
    even = eviction.build("snapkv", keep=share)
    for prompt in (40, 333, 1000):
        rooms = [pyramid.room(prompt, layer, n_layers) for layer in range(n_layers)]
        assert sum(rooms) == n_layers * even.room(prompt, 0, n_layers)
        assert rooms == sorted(rooms, reverse=True)
        assert 1 <= min(rooms) <= max(rooms) <= prompt
    if n_layers > 1 and share == 0.5:
        assert rooms[0] > 1.9 * (500 - 32)
        assert rooms[-1] < 0.1 * (500 - 32) + 32


def test_rooms_of_shares_and_budgets():
    assert eviction.build("knorm:keep=0.5").room(9, 0, 4) == 5
    assert eviction.build("knorm:keep=0.01").room(9, 0, 4) == 1
    assert eviction.build("knorm:keep=1").room(9, 0, 4) is None
    assert eviction.build("knorm:budget=7").room(9, 0, 4) == 7
    skips = eviction.build("knorm:keep=0.5:whole=2")
    assert [skips.room(10, layer, 4) for layer in range(4)] == [None, None, 5, 5]


def test_when_a_policy_evicts():
    once = eviction.build("snapkv:budget=8")
    assert once.target(20, 20, 0, 4, decoding=False) == 8
    assert once.target(20, 20, 0, 4, decoding=True) == 20
    rolling = eviction.build("rkv:budget=8:buffer=4")
    assert [rolling.target(n, 3, 0, 4, decoding=True) for n in (8, 11, 12, 30)] == [8, 11, 8, 8]
    assert rolling.target(11, 11, 0, 4, decoding=False) == 11
    assert eviction.build("h2o:keep=1").target(99, 9, 0, 4, decoding=True) == 99


def test_rows_of_a_batch_are_cut_each_by_its_own_length():
    policy = eviction.build("knorm:keep=0.5")
    rows = rows_of([20, 8])
    indices, valid = chosen(policy, rows, torch.tensor([20, 8]), 0, 4, decoding=False)
    assert indices.shape == (2, KV, 10)
    assert valid.sum(-1).tolist() == [10, 4]
    whole = eviction.build("knorm:budget=20")
    assert chosen(whole, rows, torch.tensor([20, 8]), 0, 4, decoding=False) is None


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("knorm:keep=0", "KEEP=0.0 must be above 0"),
        ("knorm:keep=1.5", "at most 1"),
        ("knorm:keep=nan", "KEEP=nan"),
        ("knorm:budget=-1", "BUDGET=-1"),
        ("rkv:buffer=-1", "BUFFER=-1"),
        ("snapkv:kernel=4", "KERNEL=4 must be odd"),
        ("snapkv:pooling=mean", "POOLING is avg or max"),
        ("snapkv:group=sum", "GROUP is mean or max"),
        ("snapkv:observe=0", "OBSERVE=0"),
        ("snapkv:block=0", "BLOCK=0"),
        ("pyramidkv:steep=0.5", "STEEP=0.5"),
        ("streaming:first=-1", "FIRST=-1"),
        ("h2o:recent=2", "RECENT=2.0"),
        ("rkv:mix=2", "MIX=2.0"),
        ("rkv:near=nan", "^DROP=rkv:near=nan: NEAR=nan must be a finite number$"),
        ("rkv:near=inf", "^DROP=rkv:near=inf: NEAR=inf must be a finite number$"),
        ("rkv:form=both", "FORM is decode or batch"),
        ("knorm:whole=-1", "WHOLE=-1"),
        ("knorms", "unknown policy DROP=knorms"),
        ("knorm:window=3", "has no option 'window'"),
        ("none:keep=0.5", "evicts nothing"),
    ],
)
def test_a_mistake_is_one_clear_line(spec, match):
    with pytest.raises(UserError, match=match) as caught:
        eviction.build(spec)
    assert "\n" not in str(caught.value)


def test_a_default_that_is_no_number_is_told_as_a_variable():
    with pytest.raises(UserError, match=r"^NEAR=-inf must be a finite number$"):
        eviction.build("rkv", near=-math.inf)


def test_policies_by_name():
    assert eviction.names() == [
        "h2o", "knorm", "none", "pyramidkv", "rkv", "snapkv", "streaming",
    ]  # fmt: skip
    assert eviction.build("none") is None
    assert eviction.spec_of(eviction.build("rkv:buffer=128:mix=0.1")) == "rkv:mix=0.1"
