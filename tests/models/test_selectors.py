"""Selectors against plain float64 loops over states that the library's own model computed."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models import selectors
from models.capture import capture
from models.errors import UserError
from models.gate import reader
from models.selectors import top_k
from models.spans import Prompt
from tests.conftest import Family, random_prompt

SINK = [1]
SHAPES = {
    "usual": (5, [30, 1, 24], 9),
    "one chunk": (3, [40], 6),
    "one-token chunks": (2, [1, 1, 1], 2),
    "no prefix": (0, [20, 20], 5),
    "one question token": (4, [25, 25], 1),
}


def select(
    family: Family, prompt: Prompt, method: str, rate: float, seed: int = 0, **options
) -> list[int]:
    """The positions that a fused prefill recomputes."""
    captured = capture(family.engine.modules, prompt, SINK)
    prefill = family.engine.fused_prefill(
        prompt,
        reader(captured.kv),
        selectors.make(method, **options),
        rate,
        torch.Generator().manual_seed(seed),
    )
    return prefill.recomputed.tolist()


def documents_of(prompt: Prompt, positions: list[int]) -> list[int]:
    """Recomputed document positions; the question must be there and all in order."""
    question = list(range(*prompt.question))
    assert positions == sorted(set(positions))
    assert positions[len(positions) - len(question) :] == question
    chosen = positions[: len(positions) - len(question)]
    assert all(prompt.documents[0] <= p < prompt.documents[1] for p in chosen)
    return chosen


def in_context(family: Family, prompt: Prompt, layer: int) -> dict[str, torch.Tensor]:
    """Post-RoPE queries and keys, and values, ``[heads, N, D]``, of a full prefill's layer."""
    attention, seen = family.library.model.layers[layer].self_attn, {}

    def keep(name):
        def hook(module, args, out):
            seen[name] = out.view(1, len(prompt), -1, attention.head_dim).transpose(1, 2)

        return hook

    sources = {
        "q": getattr(attention, "q_norm", attention.q_proj),
        "k": getattr(attention, "k_norm", attention.k_proj),
        "v": attention.v_proj,
    }
    handles = [part.register_forward_hook(keep(name)) for name, part in sources.items()]
    try:
        family.library(torch.tensor([prompt.ids]))
    finally:
        for handle in handles:
            handle.remove()
    cos, sin = family.library.model.rotary_emb(seen["v"], torch.arange(len(prompt))[None])
    seen["q"], seen["k"] = (
        apply_rotary_pos_emb(seen[name], seen[name], cos, sin)[0] for name in ("q", "k")
    )
    return {name: states[0] for name, states in seen.items()}


def cached(family: Family, prompt: Prompt, layer: int) -> dict[str, torch.Tensor]:
    """What each segment's own forward leaves: values, and keys moved to their global positions.

    A key's angle is moved by running the segment at its global positions: keys there differ from
    local ones by the rotation alone, because attention sees position differences only.
    """
    found = {"k": [], "v": []}
    for start, end in prompt.segments:
        if start == end:
            continue
        header = SINK if start > 0 else []
        ids = torch.tensor([[*header, *prompt.ids[start:end]]])
        positions = torch.arange(start - len(header), end)[None]
        cache = DynamicCache()
        family.library(ids, position_ids=positions, past_key_values=cache, use_cache=True)
        found["k"].append(cache.layers[layer].keys[0, :, len(header) :])
        found["v"].append(cache.layers[layer].values[0, :, len(header) :])
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def best(scores: list[float], first: int, k: int) -> list[int]:
    """Positions of the k largest, ties to the lower position."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(first + i for i in order[:k])


def deviation(family: Family, prompt: Prompt, layer: int, what: str) -> list[float]:
    new = in_context(family, prompt, layer)[what].double()
    old = cached(family, prompt, layer)[what].double()
    scores = []
    for position in range(*prompt.documents):
        total = 0.0
        for head in range(new.shape[0]):
            gap = (new[head, position] - old[head, position]).tolist()
            total += math.fsum(x * x for x in gap)
        scores.append(total)
    return scores


def question_attention(family: Family, prompt: Prompt, layer: int) -> list[float]:
    """A³'s score by position, spelled out: one wide head, softmax by row, sum, pool of 5."""
    states = in_context(family, prompt, layer)
    queries, keys = states["q"].double(), states["k"].double()
    n_heads, group = queries.shape[0], queries.shape[0] // keys.shape[0]
    wide_q = torch.cat([queries[h] for h in range(n_heads)], 1)
    wide_k = torch.cat([keys[h // group] for h in range(n_heads)], 1)
    first, last = prompt.documents
    summed = [0.0] * (last - first)
    for row in range(*prompt.question):
        seen = range(first, row + 1)
        logits = [float(wide_q[row] @ wide_k[p]) / math.sqrt(wide_q.shape[1]) for p in seen]
        peak = max(logits)
        weights = [math.exp(x - peak) for x in logits]
        for i in range(last - first):
            summed[i] += weights[i] / math.fsum(weights)
    padded = [0.0, 0.0, *summed, 0.0, 0.0]
    return [math.fsum(padded[i : i + 5]) / 5 for i in range(len(summed))]


def assert_best(chosen: list[int], scores: list[float], first: int, k: int) -> None:
    """The k best by these scores, up to swaps between scores that rounding cannot tell apart."""
    assert len(chosen) == k
    wanted = best(scores, first, k)
    threshold = min((scores[p - first] for p in wanted), default=0.0)
    for swapped in set(wanted) ^ set(chosen):
        assert scores[swapped - first] == pytest.approx(threshold, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", ["v", "k"])
def test_blend_takes_the_largest_deviations(family, shape, what):
    prompt = random_prompt(*SHAPES[shape], seed=3)
    scores = deviation(family, prompt, 1, what)
    for rate in (0.15, 0.5):
        chosen = documents_of(
            prompt, select(family, prompt, "blend", rate, blend_gap_source=what, check_layer=1)
        )
        assert_best(chosen, scores, prompt.documents[0], int(len(scores) * rate))


@pytest.mark.parametrize("shape", SHAPES)
def test_debug_takes_what_the_question_attends_to(family, shape):
    prompt = random_prompt(*SHAPES[shape], seed=4)
    scores = question_attention(family, prompt, 1)
    for rate in (0.15, 0.5):
        chosen = documents_of(prompt, select(family, prompt, "debug", rate))
        assert_best(chosen, scores, prompt.documents[0], int(len(scores) * rate))


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_check_layer_moves(family, layer):
    prompt = random_prompt(5, [40, 30], 9, seed=5)
    first, k = prompt.documents[0], 14
    chosen = documents_of(prompt, select(family, prompt, "debug", 0.2, check_layer=layer))
    assert_best(chosen, question_attention(family, prompt, layer), first, k)
    if layer == 0:  # nothing before the first layer depends on the context: every deviation is 0
        return
    chosen = documents_of(prompt, select(family, prompt, "blend", 0.2, check_layer=layer))
    assert_best(chosen, deviation(family, prompt, layer, "v"), first, k)


def test_values_of_the_first_layer_do_not_deviate(family):
    prompt = random_prompt(5, [40, 30], 9, seed=5)
    assert max(deviation(family, prompt, 0, "v")) < 1e-9
    chosen = documents_of(prompt, select(family, prompt, "blend", 0.2, check_layer=0))
    assert len(chosen) == 14


@pytest.mark.parametrize("method", ["debug", "blend"])
@pytest.mark.parametrize("layer", [4, 9])
def test_a_check_layer_that_the_model_lacks(llama, prompt, method, layer):
    with pytest.raises(UserError, match="0 to 3"):
        select(llama, prompt, method, 0.2, check_layer=layer)


def test_blend_compares_keys_or_values_only():
    with pytest.raises(UserError, match="k or v"):
        selectors.make("blend", blend_gap_source="q")


@pytest.mark.parametrize("method", ["random", "debug", "blend"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_budget_and_the_whole_budget(llama, method, shape):
    prompt = random_prompt(*SHAPES[shape])
    everything = list(range(*prompt.documents))
    assert documents_of(prompt, select(llama, prompt, method, 0.0)) == []
    assert documents_of(prompt, select(llama, prompt, method, 1.0)) == everything


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_full_and_cat_do_not_know_a_rate(llama, prompt, rate):
    assert select(llama, prompt, "full", rate) == list(range(*prompt.question))
    assert select(llama, prompt, "cat", rate) == [len(prompt) - 1]


@pytest.mark.parametrize(
    ("size", "rate", "k"),
    [
        (100, 0.29, 29),  # 0.29 · 100 is 28.999999999999996 in floating point
        (100, 0.57, 57),
        (1000, 0.15, 150),
        (10, 0.19, 1),
        (7, 1.0, 7),
        (7, 0.999, 6),
        (3, 0.0, 0),
        (0, 0.5, 0),
    ],
)
@pytest.mark.parametrize("method", ["random", "debug", "blend"])
def test_the_budget_is_the_floor_of_the_share(llama, size, rate, k, method):
    prompt = random_prompt(3, [size] if size else [], 4)
    assert len(documents_of(prompt, select(llama, prompt, method, rate))) == k


def test_random_repeats_with_its_seed_and_differs_without(llama, prompt):
    first = select(llama, prompt, "random", 0.3, seed=1)
    assert select(llama, prompt, "random", 0.3, seed=1) == first
    assert select(llama, prompt, "random", 0.3, seed=2) != first


def test_random_is_uniform(llama):
    prompt = random_prompt(2, [6, 4], 2)
    counts = [0] * 10
    draws = 400
    for seed in range(draws):
        for position in documents_of(prompt, select(llama, prompt, "random", 0.3, seed)):
            counts[position - 2] += 1
    assert sum(counts) == 3 * draws
    # A position is drawn 120 times in the mean, with a standard deviation of 9.2.
    assert all(abs(count - 0.3 * draws) < 4.5 * 9.2 for count in counts)


# The building blocks


def test_ties_go_to_the_lower_index():
    assert top_k(torch.tensor([1.0, 3.0, 3.0, 3.0, 2.0]), 2).tolist() == [1, 2]
    assert top_k(torch.zeros(1000), 5).tolist() == [0, 1, 2, 3, 4]
    assert top_k(torch.ones(4), 0).tolist() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_refused(dtype):
    with pytest.raises(TypeError, match="float32"):
        top_k(torch.ones(4, dtype=dtype), 2)


def test_aliases():
    assert selectors.canonical("a3") == "debug"
    assert selectors.canonical("cacheblend") == "blend"
    assert all(selectors.canonical(name) == name for name in selectors.names())
    assert {"no", "full", "cat", "random", "debug", "blend"} <= set(selectors.names())


@pytest.mark.parametrize(
    ("wrong", "right"), [("blnd", "blend"), ("rand", "random"), ("cacheblen", "cacheblend")]
)
def test_unknown_names_are_answered_with_the_nearest(wrong, right):
    with pytest.raises(UserError, match=rf"REUSE={wrong}: did you mean .*{right}"):
        selectors.canonical(wrong)
