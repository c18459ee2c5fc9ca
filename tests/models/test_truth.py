"""The full prefill as a yardstick: what is kept of it, distances from it, and the oracles."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

from models import selectors
from models.engine import Engine
from models.errors import UserError
from models.gate import reader
from models.prompt import Prompt
from models.question import concatenated_attention, group_attention
from tests.conftest import Family, build, random_prompt
from tests.models.library_states import RowByRow, States, cached, eager, in_context, question_over
from tests.models.selector_references import (
    SHAPES,
    assert_takes_the_best,
    attention,
    captured,
    deviation,
    document_attention,
    fuse,
    shaped,
    truth,
    wide,
)

SCALE = 1 / math.sqrt(16)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(ours.double(), theirs.double(), atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_observed_is_the_librarys_full_forward(family, shape):
    prompt = shaped(shape, seed=21)
    seen = truth(family, prompt)
    past = DynamicCache()
    family.library(torch.tensor([prompt.ids]), past_key_values=past, use_cache=True)
    for layer, states in enumerate(in_context(family, prompt)):
        assert close(seen.kv[0, layer], past.layers[layer].keys[0])
        assert close(seen.kv[1, layer], past.layers[layer].values[0])
        assert close(seen.queries[layer], states["q"][:, prompt.question[0] :])


def test_true_attention_is_the_librarys_own(family):
    prompt = shaped("usual", seed=21)
    out = eager(family.name)(torch.tensor([prompt.ids]), output_attentions=True)
    for layer, weights in enumerate(out.attentions):
        ours = torch.cat(list(truth(family, prompt).attention(layer)))
        assert close(ours, weights[0, :, prompt.question[0] :])


def test_what_was_observed_stays_as_it_was(llama):
    """A later prefill, of another prompt too, changes the cache but not what was kept."""
    prompt = shaped("usual", seed=21)
    llama.engine.full_prefill(prompt)
    seen = llama.engine.observe(prompt)
    before = seen.kv.clone(), seen.queries.clone()
    fuse(llama, prompt, "random", 0.5)
    llama.engine.full_prefill(shaped("one chunk"))
    assert torch.equal(seen.kv, before[0])
    assert torch.equal(seen.queries, before[1])


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    gap = math.fsum(x * x for x in (found - true).flatten().tolist())
    return math.sqrt(gap / math.fsum(x * x for x in true.flatten().tolist()))


def distances(family: Family, prompt: Prompt, kv: States) -> tuple[list[float], list[float]]:
    """Δ_kv and Δ_attn by layer of a cache that holds these keys and values."""
    first, last = prompt.documents
    delta_kv, delta_attn = [], []
    question = question_over(family, prompt, kv)
    for at, own, true in zip(kv, question, in_context(family, prompt), strict=True):
        gaps = [relative(at[n][:, first:last], true[n][:, first:last]) for n in "kv"]
        delta_kv.append(sum(gaps) / 2)
        fused = attention(own["q"], at["k"], last, SCALE)
        delta_attn.append(relative(fused, attention(true["q"][:, last:], true["k"], last, SCALE)))
    return delta_kv, delta_attn


@pytest.mark.parametrize("shape", ["usual", "no prefix", "one question token"])
@pytest.mark.parametrize(("method", "rate"), [("full", 0.0), ("random", 0.3), ("cat", 0.0)])
def test_distances_of_a_fused_prefill(family, shape, method, rate):
    prompt = shaped(shape, seed=22)
    seen = truth(family, prompt)
    rows = fuse(family, prompt, method, rate).recomputed.tolist()
    walk = RowByRow(family, prompt)
    for layer in range(len(walk.kv)):
        walk.run(layer, rows)
    ours = family.engine.deviations(seen)
    for found, wanted in zip(ours, distances(family, prompt, walk.kv), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    if shape == "usual":
        assert all(gap > 0.01 for gap in ours[0][1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_full_prefill_is_no_distance_from_itself(family, shape):
    prompt = shaped(shape, seed=22)
    family.engine.full_prefill(prompt)
    seen = family.engine.observe(prompt)
    delta_kv, delta_attn = family.engine.deviations(seen)
    assert delta_kv == [0.0] * 4
    assert max(delta_attn) < 1e-5


def test_everything_recomputed_is_no_distance_either(family):
    prompt = shaped("usual", seed=22)
    seen = truth(family, prompt)
    fuse(family, prompt, "random", 1.0)
    assert all(max(by_layer) < 1e-4 for by_layer in family.engine.deviations(seen))


@pytest.mark.parametrize("method", ["full", "cat", "random", "blend", "prophet"])
def test_looking_changes_nothing(family, method):
    """Distances come out the same again, and the cache decodes on as if nobody had looked."""
    prompt = shaped("usual", seed=23)
    seen = truth(family, prompt)
    answer = family.engine.decode(fuse(family, prompt, method, 0.3), 8, ()).tokens
    prefill = fuse(family, prompt, method, 0.3)
    kv = family.engine.cache.kv[:, :, :, : len(prompt)].clone()
    assert family.engine.deviations(seen) == family.engine.deviations(seen)
    assert torch.equal(family.engine.cache.kv[:, :, :, : len(prompt)], kv)
    assert family.engine.decode(prefill, 8, ()).tokens == answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observing_changes_nothing(prompt, dtype):
    """In half precision a second look at the question's rows rounds them differently."""
    engine = Engine(build("llama").to(dtype))
    engine.full_prefill(prompt)
    kv = engine.cache.kv.clone()
    engine.observe(prompt)
    assert torch.equal(engine.cache.kv, kv)


# Attention spelled out


@pytest.mark.parametrize(("q", "rows"), [(1, 1), (1, 40), (9, 40), (40, 40)])
@pytest.mark.parametrize("n_kv", [1, 2, 6])
def test_attention_against_loops(q, rows, n_kv):
    generator = torch.Generator().manual_seed(q + rows)
    queries = 3 * torch.randn(6, q, 16, generator=generator)
    keys = 3 * torch.randn(n_kv, rows, 16, generator=generator)
    before = queries.clone(), keys.clone()
    by_head = attention(queries.double(), keys.double(), rows - q, 0.3)
    one = attention(wide(queries, 6).double(), wide(keys, 6).double(), rows - q, 96**-0.5)
    for dtype in (torch.float32, torch.bfloat16):
        q_in, k_in = queries.to(dtype), keys.to(dtype)
        if dtype == torch.bfloat16:
            by_head = attention(q_in.double(), k_in.double(), rows - q, 0.3)
            one = attention(wide(q_in, 6).double(), wide(k_in, 6).double(), rows - q, 96**-0.5)
        by_group = torch.cat(list(group_attention(q_in, k_in, 0.3)))
        found = by_group, concatenated_attention(q_in, k_in)
        assert all(weights.dtype == torch.float32 for weights in found)
        assert close(found[0], by_head, 1e-5)
        assert close(found[1], one[0], 1e-5)
    assert torch.equal(queries, before[0])
    assert torch.equal(keys, before[1])


# Oracles


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_kv_takes_the_furthest_from_the_full_prefill(family, shape):
    prompt = shaped(shape, seed=24)
    documents = list(range(*prompt.documents))
    scores = [0.0] * len(documents)
    pairs = zip(in_context(family, prompt), cached(family, prompt), strict=True)
    for true, old in pairs:
        for what in "kv":
            gaps = deviation(true[what], old[what], documents)
            sizes = deviation(true[what], torch.zeros_like(true[what]), documents)
            mean = math.fsum(sizes) / len(sizes)
            scores = [s + gap / mean for s, gap in zip(scores, gaps, strict=True)]
    assert_takes_the_best(family, prompt, "oracle_kv", scores)


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_attn_takes_what_the_question_really_looks_at(family, shape):
    prompt = shaped(shape, seed=25)
    last = prompt.question[0]
    by_layer = [
        attention(states["q"][:, last:], states["k"], last, SCALE)
        for states in in_context(family, prompt)
    ]
    assert_takes_the_best(family, prompt, "oracle_attn", document_attention(by_layer, prompt))


@pytest.mark.parametrize("method", ["oracle_kv", "oracle_attn"])
def test_an_oracle_without_a_full_prefill(llama, method):
    prompt = random_prompt(3, [20], 4)
    with pytest.raises(UserError, match="an oracle needs the full prefill"):
        llama.engine.fused_prefill(
            prompt,
            reader(captured(llama, prompt).kv),
            selectors.make(method),
            0.5,
            torch.Generator(),
        )


@pytest.mark.parametrize(
    "method",
    ["full", "cat", "random", "debug", "debug:check=cached", "blend:filter_layers=2", "prophet"],
)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_queries_that_were_watched_say_the_same(family, prompt, method, rate):
    """What the question's rows asked on their way is what they ask when they run anew."""
    engine = family.engine
    seen = truth(family, prompt)
    engine.watches = True
    try:
        prefill = fuse(family, prompt, method, rate)
    finally:
        engine.watches = False
    assert (prefill.queries is None) == (method == "cat")
    watched = engine.deviations(seen)
    anew = fuse(family, prompt, method, rate)
    assert anew.queries is None
    assert torch.equal(anew.logits, prefill.logits)
    for found, right in zip(watched, engine.deviations(seen), strict=True):
        assert found == pytest.approx(right, abs=2e-5)
