"""Rows leave a cache in the engine as they do under the library's own forward."""

from __future__ import annotations

import sys

import pytest
import torch

from models import eviction
from models.decoding import leaving
from models.decoding.answers import ROWS
from models.eviction.generate import evicting as library_evicting
from tests.conftest import Family
from tests.models.selector_references import fuse

COUNT = 9
POLICIES = [name for name in eviction.names() if name != eviction.NONE]
SPECS = [
    "streaming:keep=0.3",
    "streaming:keep=0.3:renumber=1",
    "streaming:keep=0.3:buffer=4",
    "snapkv:keep=0.3",
    "snapkv:keep=0.3:block=4:observe=8",
    "pyramidkv:keep=0.4:observe=6",
    "knorm:keep=0.3",
    "knorm:keep=0.3:whole=2",
    "h2o:keep=0.3",
    "rkv:budget=40:buffer=3:observe=4",
    "rkv:budget=400",
]


@pytest.fixture(autouse=True)
def observed(request):
    """Queries are kept for every policy, and not after this test."""
    engines = [
        request.getfixturevalue(n).engine for n in ("family", "llama") if n in request.fixturenames
    ]
    for engine in engines:
        engine.observes = sys.maxsize
        engine.together.clear()
    yield
    for engine in engines:
        engine.observes = 0
        engine.together.clear()


def followed(engine, prefill, policy, tokens):
    evicting = engine.evict(prefill, policy, len(tokens))
    with leaving.copied(engine.together, evicting) as copy:
        return leaving.follow(copy, prefill, tokens), evicting


@pytest.mark.parametrize("name", POLICIES)
def test_a_cache_that_keeps_everything_is_the_cache(family, prompt, name):
    """Bit for bit, full and fused."""
    engine = family.engine
    policy = eviction.build(name, keep=1.0)
    for method in ("no", "random", "debug"):
        engine.cache.reserve(len(prompt) + COUNT)
        prefill = (
            engine.full_prefill(prompt) if method == "no" else fuse(family, prompt, method, 0.3)
        )
        tokens = engine.decode(prefill, COUNT, ()).tokens
        evicting = engine.evict(prefill, policy, COUNT)
        with leaving.copied(engine.together, evicting) as copy:
            assert leaving.decode(copy, prefill, COUNT, ()).tokens == tokens
        with leaving.copied(engine.together, evicting) as copy:
            found = leaving.follow(copy, prefill, tokens)
        assert torch.equal(found, engine.follow(prefill, tokens))
        assert evicting.count == 0
        n = len(prompt)
        assert torch.equal(evicting.cache.kv[:, :, :, :n], engine.cache.kv[:, :, :, :n])


@pytest.mark.parametrize("spec", SPECS)
def test_rows_leave_as_under_the_librarys_forward(family, prompt, spec):
    if family.name == "qwen3" and spec.startswith("knorm"):
        pytest.skip("its fresh norms make all keys as long: rounding alone decides")
    assert_as_the_library_does(family, prompt, spec)


def assert_as_the_library_does(family, prompt, spec):
    engine, policy = family.engine, eviction.build(spec)
    tokens = [44, 17, 90, 3, 44, 120, 66, 5, 71]
    prefill = engine.full_prefill(prompt)
    found, evicting = followed(engine, prefill, policy, tokens)
    assert evicting.count or "budget=400" in spec
    wanted = []
    with library_evicting(family.library, policy) as cache, torch.inference_mode():
        for ids in [list(prompt.ids), *([token] for token in tokens[:-1])]:
            out = family.library(torch.tensor([ids]), past_key_values=cache, use_cache=True)
            wanted.append(out.logits[0, -1].float())
    torch.testing.assert_close(found, torch.stack(wanted), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("n_layers", [28, 30, 32])
def test_any_number_of_layers(n_layers, prompt):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
             "num_key_value_heads": 1, "initializer_range": 0.1}  # fmt: skip
    deep = Family("llama", num_hidden_layers=n_layers, **small)
    deep.engine.observes = sys.maxsize
    for spec in ("pyramidkv:keep=0.4:observe=6", "h2o:keep=0.3", "knorm:keep=0.3:whole=2"):
        assert_as_the_library_does(deep, prompt, spec)


@pytest.mark.parametrize("spec", SPECS)
def test_decoded_alone_and_beside_others(family, prompt, spec):
    engine, policy = family.engine, eviction.build(spec)
    alone, answers = [], []
    for number in range(ROWS + 2):
        prefill = (
            fuse(family, prompt, "random", 0.3, seed=number)
            if number % 2
            else engine.full_prefill(prompt)
        )
        if number % 3 == 2:
            alone.append(engine.decode(prefill, COUNT, ()).tokens)
            answers.append(engine.answer(prefill, COUNT, ()))
            continue
        evicting = engine.evict(prefill, policy, COUNT)
        with leaving.copied(engine.together, evicting) as copy:
            alone.append(leaving.decode(copy, prefill, COUNT, ()).tokens)
        answers.append(leaving.answer(engine.together, evicting, prefill, ()))
    engine.together.finish()
    assert [answer.tokens for answer in answers] == alone
    assert engine.together.active == []


def test_the_prefill_is_left_whole(llama, prompt):
    engine = llama.engine
    prefill = engine.full_prefill(prompt)
    tokens = engine.decode(prefill, COUNT, ()).tokens
    before = engine.follow(prefill, tokens)
    kv = engine.cache.kv[:, :, :, : len(prompt)].clone()
    evicting = engine.evict(prefill, eviction.build("knorm:keep=0.2"), COUNT)
    leaving.follow(evicting, prefill, tokens)
    assert torch.equal(engine.cache.kv[:, :, :, : len(prompt)], kv)
    assert torch.equal(engine.follow(prefill, tokens), before)
    assert engine.decode(prefill, COUNT, ()).tokens == tokens


def test_bytes_are_those_of_the_rows_that_stay(llama, prompt):
    engine, n = llama.engine, len(prompt)
    prefill = engine.full_prefill(prompt)
    row = 2 * 4 * 2 * 16 * 4  # kinds, layers, heads, dimensions, float32
    for spec, rows in (("snapkv:budget=50", 50), ("streaming:keep=0.25", round(n / 4)), ("rkv", n)):
        evicting = engine.evict(prefill, eviction.build(spec), COUNT)
        assert evicting.cache.bytes == rows * row
    pyramid = engine.evict(prefill, eviction.build("pyramidkv:budget=60:observe=8"), COUNT)
    assert pyramid.cache.bytes == 60 * row
    assert len(set(pyramid.cache.lengths)) == 4


def test_rkv_holds_its_budget_over_many_tokens(llama, prompt):
    """At most budget and buffer after every token, however many came; positions are all seen."""
    engine, policy = llama.engine, eviction.build("rkv:budget=30:buffer=10:observe=4")
    prefill, count = engine.full_prefill(prompt), 300
    evicting = engine.evict(prefill, policy, count)
    generator = torch.Generator().manual_seed(3)
    for number in range(count - 1):
        token = int(torch.randint(3, 160, (1,), generator=generator))
        leaving.follow(evicting, prefill, [token, token])
        assert max(evicting.cache.lengths) < 40
        assert evicting.cache.seen == len(prompt) + number + 1
    positions = evicting.cache.layers[1].positions
    assert (positions[:, 1:] > positions[:, :-1]).all()
    assert int(positions[0, -1]) == evicting.cache.seen - 1
    assert evicting.count == 1 + (count - 1) // 10


def test_a_policy_that_needs_queries_says_so(llama, prompt):
    llama.engine.observes = 0
    prefill = llama.engine.full_prefill(prompt)
    with pytest.raises(ValueError, match="none were kept"):
        llama.engine.evict(prefill, eviction.build("snapkv"), COUNT)
    llama.engine.evict(prefill, eviction.build("knorm"), COUNT)
