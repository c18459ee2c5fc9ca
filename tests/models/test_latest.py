"""The cache holds one prefill; whoever goes on with another one is told."""

from __future__ import annotations

import pytest
import torch

from models.engine import Engine
from models.errors import UserError
from tests.conftest import build, random_prompt
from tests.models.selector_references import fuse, shaped


@pytest.fixture
def prompt():
    return shaped("usual", seed=51)


@pytest.mark.parametrize("later", ["full", "fused", "failed", "another prompt"])
def test_a_prefill_that_is_gone_cannot_be_gone_on_with(llama, prompt, later):
    engine = llama.engine
    first = fuse(llama, prompt, "full", 0.0)
    engine.full_prefill(prompt)
    truth = engine.observe(prompt)
    held = fuse(llama, prompt, "full", 0.0)
    engine.decode(held, 3, ())
    if later == "full":
        engine.full_prefill(prompt)
    elif later == "fused":
        fuse(llama, prompt, "full", 0.0)
    elif later == "another prompt":
        engine.full_prefill(shaped("one chunk"))
    else:
        with pytest.raises(UserError):
            fuse(llama, prompt, "blend:filter_layers=4", 0.2)
    for gone in (first, held):
        with pytest.raises(ValueError, match="not the latest"):
            engine.decode(gone, 3, ())
        with pytest.raises(ValueError, match="not the latest"):
            engine.follow(gone, [5, 6])
    if later in ("failed", "another prompt"):
        with pytest.raises(ValueError, match="does not hold the latest prefill of this prompt"):
            engine.deviations(truth)
    if later != "full":
        with pytest.raises(ValueError, match="does not hold the full prefill of this prompt"):
            engine.observe(prompt)


def test_only_a_full_prefill_of_that_prompt_can_be_observed(llama, prompt):
    engine = llama.engine
    fuse(llama, prompt, "random", 1.0)  # equal but for rounding, and yet not the yardstick
    with pytest.raises(ValueError, match="full prefill of this prompt"):
        engine.observe(prompt)
    engine.full_prefill(prompt)
    with pytest.raises(ValueError, match="full prefill of this prompt"):
        engine.observe(shaped("usual", seed=52))
    engine.observe(shaped("usual", seed=51))  # an equal prompt is the same prompt


def test_another_engines_prefill_is_not_this_ones(llama, prompt):
    other = Engine(build("llama"))
    mine, theirs = llama.engine.full_prefill(prompt), other.full_prefill(prompt)
    with pytest.raises(ValueError, match="not the latest"):
        llama.engine.decode(theirs, 2, ())
    llama.engine.decode(mine, 2, ())


def test_tokens_that_were_not_followed_are_not_in_the_cache(llama, prompt):
    engine = llama.engine
    held = fuse(llama, prompt, "full", 0.0)
    answer = engine.decode(held, 6, ()).tokens
    engine.follow(held, [5] * 4)
    with pytest.raises(ValueError, match="follow them first"):
        engine.decode(held, 6, (), answer[:3])
    engine.follow(held, answer[:3])
    assert engine.decode(held, 6, (), answer[:3]).tokens == answer
    assert engine.decode(held, 6, (), answer[:5]).tokens == answer  # decoded a moment ago
    held = fuse(llama, prompt, "full", 0.0)
    with pytest.raises(ValueError, match="follow them first"):
        engine.decode(held, 6, (), answer[:3])


def test_decoding_takes_its_room_once_before_the_first_step(prompt):
    """A cache that grew with every token would be copied for every token."""
    engine, buffers = Engine(build("llama")), []
    held = engine.full_prefill(prompt)
    assert engine.cache.capacity == len(prompt)
    handle = engine.modules.layers[0].register_forward_pre_hook(
        lambda *_: buffers.append(engine.cache.kv)
    )
    answer = engine.decode(held, 20, ()).tokens
    handle.remove()
    assert len(buffers) == 19
    assert all(buffer is buffers[0] for buffer in buffers)
    engine.cache.reserve(200)
    assert engine.decode(engine.full_prefill(prompt), 20, ()).tokens == answer


def test_a_cache_that_grows_after_distances_keeps_what_was_followed(prompt):
    engine = Engine(build("llama"))
    engine.full_prefill(prompt)
    truth = engine.observe(prompt)
    held = engine.full_prefill(prompt)
    answer = engine.decode(held, 12, ()).tokens

    fresh = Engine(build("llama"))
    held = fresh.full_prefill(prompt)
    fresh.follow(held, answer[:6])
    fresh.deviations(truth)
    assert fresh.cache.capacity < len(prompt) + 12
    assert fresh.decode(held, 12, (), answer[:6]).tokens == answer


def test_a_shorter_prompt_after_a_longer_one(llama):
    engine = llama.engine
    engine.full_prefill(random_prompt(4, [90], 9))
    short = random_prompt(2, [20], 4)
    held = engine.full_prefill(short)
    assert held.length == len(short)
    assert torch.equal(engine.observe(short).kv, engine.cache.kv[:, :, :, : len(short)])
