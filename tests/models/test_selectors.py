"""Selectors that look at a check layer, against plain float64 loops over the library's states."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from models import selectors
from models.errors import UserError
from models.prompt import Prompt
from models.selectors import top_k
from tests.conftest import Family, random_prompt
from tests.models.library_states import RowByRow, cached, in_context
from tests.models.selector_references import (
    RATES,
    SHAPES,
    assert_takes_the_best,
    attention,
    best,
    chosen,
    deviation,
    fuse,
    pooled,
    shaped,
    wide,
)


@pytest.fixture(scope="module")
def deep() -> Family:
    return Family("llama", num_hidden_layers=8)


def deviations(family: Family, prompt: Prompt, layer: int, what: str) -> list[float]:
    """CacheBlend's score by document position."""
    new, old = in_context(family, prompt)[layer][what], cached(family, prompt)[layer][what]
    return deviation(new, old, list(range(*prompt.documents)))


def question_attention(
    family: Family,
    prompt: Prompt,
    layer: int = 1,
    per_head: bool = False,
    edge_corrected: bool = False,
) -> list[float]:
    """A³'s score by document position: softmax by row, sum over rows (and heads), pool of 5."""
    states = in_context(family, prompt)[layer]
    first, last = prompt.documents
    queries, keys = states["q"][:, last:], states["k"][:, first:]
    scale = 1 / math.sqrt(16)
    if not per_head:
        n_heads = queries.shape[0]
        queries, keys = wide(queries, n_heads), wide(keys, n_heads)
        scale = 1 / math.sqrt(n_heads * 16)
    weights = attention(queries, keys, last - first, scale)
    received = [math.fsum(weights[:, :, i].flatten().tolist()) for i in range(last - first)]
    return pooled(received, 5, edge_corrected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", ["v", "k"])
def test_blend_takes_the_largest_deviations(family, shape, what):
    prompt = shaped(shape, seed=3)
    scores = deviations(family, prompt, 1, what)
    assert_takes_the_best(family, prompt, f"blend:blend_gap_source={what}", scores)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("edge_corrected", [False, True])
def test_debug_takes_what_the_question_attends_to(family, shape, per_head, edge_corrected):
    prompt = shaped(shape, seed=4)
    scores = question_attention(family, prompt, 1, per_head, edge_corrected)
    selector = selectors.make("debug", per_head=per_head, edge_corrected=edge_corrected)
    assert_takes_the_best(family, prompt, selector, scores)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_check_layer_moves(family, layer):
    prompt = random_prompt(5, [40, 30], 9, seed=5)
    scores = question_attention(family, prompt, layer)
    assert_takes_the_best(family, prompt, f"debug:check_layer={layer}", scores)
    if layer == 0:  # nothing before the first layer depends on the context: every deviation is 0
        return
    for what in "kv":
        scores = deviations(family, prompt, layer, what)
        selector = selectors.make("blend", check_layer=layer, blend_gap_source=what)
        assert_takes_the_best(family, prompt, selector, scores)


def test_values_of_the_first_layer_do_not_deviate(family):
    prompt = random_prompt(5, [40, 30], 9, seed=5)
    assert max(deviations(family, prompt, 0, "v")) < 1e-9
    assert len(chosen(family, prompt, "blend:check_layer=0", 0.2)) == 14


# Gradual filtering


def narrowed(family: Family, prompt: Prompt, k: int, what: str, check: int, steps: int):
    """What is left after each step of gradual filtering, and the deviations that decided it."""
    first, last = prompt.documents
    kept, question = list(range(first, last)), list(range(last, len(prompt)))
    walk, old = RowByRow(family, prompt), cached(family, prompt)
    for layer in range(check):
        walk.run(layer, kept + question)
    for step in range(steps):
        layer = check + step
        if step:
            walk.run(layer - 1, kept + question)
        scores = deviation(walk.fresh(layer, kept + question)[what], old[layer][what], kept)
        count = math.floor(Fraction(k * (2 * steps - 2 - step), steps - 1))
        kept = [kept[i] for i in best(scores, 0, count)]
    return kept


@pytest.mark.parametrize("what", ["v", "k"])
@pytest.mark.parametrize(("check", "steps", "k"), [(1, 2, 9), (1, 3, 5), (2, 2, 3)])
def test_blend_narrows_its_choice_layer_by_layer(family, what, check, steps, k):
    prompt = random_prompt(4, [14, 1, 12], 4, seed=6)
    selector = selectors.make(
        "blend", check_layer=check, filter_layers=steps, blend_gap_source=what
    )
    found = chosen(family, prompt, selector, k / 27)
    assert found == narrowed(family, prompt, k, what, check, steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("k", [0, 1, 9, 15, 30, 60, 61])
def test_the_share_falls_linearly_from_twice_the_budget(deep, steps, k):
    """Rows in flight layer by layer: 2k after the first look, k after the last, exactly."""
    prompt = random_prompt(3, [40, 21], 2)
    prefill = fuse(deep, prompt, f"blend:filter_layers={steps}", k / 61)
    rows = [len(positions) - 2 for positions, layers in prefill.passes for _ in range(layers)]
    shares = [2 - Fraction(step, steps - 1) for step in range(steps - 1)]
    narrowing = [min(61, math.floor(k * share)) for share in shares]
    assert rows == [61, *narrowing, *[k] * (8 - steps)]


def test_filtering_differs_from_one_look(llama):
    prompt = random_prompt(4, [40, 30], 4, seed=6)
    once, twice = (chosen(llama, prompt, f"blend:filter_layers={n}", 0.2) for n in (1, 2))
    assert len(once) == len(twice) == 14
    assert once != twice


# Both scores


def unit(scores: list[float], normalize: str) -> list[float]:
    """Scores brought to [0, 1]: by their range, or by how many others are smaller."""
    if normalize == "rank":
        others = max(len(scores) - 1, 1)
        return [sum(other < score for other in scores) / others for score in scores]
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


@pytest.mark.parametrize("shape", ["usual", "one-token chunks", "one question token"])
@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "mul"},
        {"fusion": "mul", "alpha": 0.2, "blend_gap_source": "k"},
        {"fusion": "mul", "normalize": "rank"},
        {"fusion": "sum", "alpha": 0.3},
        {"fusion": "sum", "normalize": "rank", "blend_gap_source": "k"},
        {"fusion": "rank", "alpha": 0.4},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_blend_debug_fuses_both_scores(family, shape, options):
    prompt = shaped(shape, seed=8)
    fusion, alpha = options["fusion"], options.get("alpha", 0.5)
    scale = "rank" if fusion == "rank" else options.get("normalize", "minmax")
    gap = unit(deviations(family, prompt, 1, options.get("blend_gap_source", "v")), scale)
    look = unit(question_attention(family, prompt), scale)
    pairs = list(zip(gap, look, strict=True))
    if fusion == "mul":
        scores = [g**alpha * a ** (1 - alpha) for g, a in pairs]
    else:
        scores = [alpha * g + (1 - alpha) * a for g, a in pairs]
    selector = selectors.make("blend_debug", **options)
    assert_takes_the_best(family, prompt, selector, scores)


@pytest.mark.parametrize("fusion", ["mul", "sum", "rank"])
@pytest.mark.parametrize(("alpha", "alone"), [(1.0, "blend"), (0.0, "debug")])
def test_blend_debug_ends_at_either_score(llama, fusion, alpha, alone):
    prompt = shaped("usual", seed=8)
    selector = selectors.make("blend_debug", fusion=fusion, alpha=alpha)
    for rate in RATES:
        assert chosen(llama, prompt, selector, rate) == chosen(llama, prompt, alone, rate)


@pytest.mark.parametrize("options", [{"per_head": True}, {"edge_corrected": True}])
@pytest.mark.parametrize("layer", [1, 2])
def test_blend_debug_hands_its_options_on(llama, options, layer):
    prompt = shaped("usual", seed=8)
    both = selectors.make("blend_debug", alpha=0.0, fusion="sum", check_layer=layer, **options)
    alone = selectors.make("debug", check_layer=layer, **options)
    found = [chosen(llama, prompt, both, rate) for rate in RATES]
    assert found == [chosen(llama, prompt, alone, rate) for rate in RATES]
    assert found != [chosen(llama, prompt, f"debug:check_layer={layer}", r) for r in RATES]


# Ties


def test_ties_go_to_the_lower_index():
    assert top_k(torch.tensor([1.0, 3.0, 3.0, 3.0, 2.0]), 2).tolist() == [1, 2]
    assert top_k(torch.zeros(1000), 5).tolist() == [0, 1, 2, 3, 4]
    assert top_k(torch.ones(4), 0).tolist() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_refused(dtype):
    with pytest.raises(TypeError, match="float32"):
        top_k(torch.ones(4, dtype=dtype), 2)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("blend", {"blend_gap_source": "q"}, "BLEND_GAP_SOURCE is k or v, not 'q'"),
        ("blend", {"filter_layers": 0}, "FILTER_LAYERS=0 must be at least 1"),
        ("debug", {"check": "dens"}, "CHECK is dense or cached, not 'dens'"),
        ("blend_debug", {"blend_gap_source": ""}, "BLEND_GAP_SOURCE"),
        ("blend_debug", {"fusion": "max"}, "FUSION is mul, sum or rank, not 'max'"),
        ("blend_debug", {"normalize": "z"}, "NORMALIZE is minmax or rank, not 'z'"),
        ("blend_debug", {"alpha": 1.5}, "ALPHA=1.5 is outside"),
        ("blend_debug", {"alpha": math.nan}, "ALPHA=nan is outside"),
        ("prophet", {"pool": 2}, "POOL=2 must be odd"),
        ("prophet", {"pool": -1}, "POOL=-1 must be odd"),
        ("primer", {"decay": -0.1}, "DECAY=-0.1 must be a number"),
        ("primer", {"decay": float("nan")}, "DECAY=nan must be a number"),
        ("epic", {"lego_k": -1}, "LEGO_K=-1 must be at least 0"),
    ],
)
def test_an_option_out_of_range_is_told_in_one_line(name, options, told):
    with pytest.raises(UserError, match=told) as caught:
        selectors.make(name, **options)
    assert "\n" not in str(caught.value)
