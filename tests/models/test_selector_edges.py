"""What every selector owes: its budget, order, repeatability; also where there is little to choose.

Selectors are found by their names, so one that is added is held to this too.
"""

from __future__ import annotations

import pytest
import torch

from models.errors import UserError
from models.prompt import Prompt
from tests.conftest import Family, build, random_prompt
from tests.models.selector_references import (
    EVERY_SELECTOR,
    RATED,
    SHAPES,
    chosen,
    fuse,
    shaped,
)

VARIANTS = [
    *RATED,
    "blend:blend_gap_source=k:filter_layers=3",
    "debug:check=cached:per_head=1",
    "blend_debug:fusion=rank",
    "prophet:pool=5",
]


@pytest.fixture(scope="module")
def half() -> Family:
    """A model in bfloat16."""
    family = Family("qwen3")
    family.engine = type(family.engine)(build("qwen3").bfloat16())
    return family


def exact(prompt, spec: str) -> int:
    """Rows that ``primer`` never chooses: the first chunk's where nothing stands before it."""
    if spec != "primer" or prompt.prefix[1] or not prompt.chunks:
        return 0
    start, end = prompt.chunks[0]
    return end - start


@pytest.mark.parametrize("spec", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_budget_and_the_whole_budget(llama, spec, shape):
    prompt = shaped(shape)
    assert chosen(llama, prompt, spec, 0.0) == []
    first, last = prompt.documents
    assert chosen(llama, prompt, spec, 1.0) == list(range(first + exact(prompt, spec), last))


@pytest.mark.parametrize(
    ("chunks", "rate", "k"),
    [
        ([100], 0.29, 29),  # 0.29 · 100 is 28.999999999999996 in floating point
        ([30, 70], 0.57, 57),
        ([300, 700], 0.15, 150),
        ([10], 0.19, 1),
        ([3, 1, 3], 0.999, 6),
        ([3], 0.3, 0),
        ([1], 0.99, 0),
        ([1], 1.0, 1),
        ([2, 30, 2], 0.9, 30),  # more than any chunk but one holds
        ([0, 9, 0], 0.5, 4),
        ([], 0.5, 0),
        ([0], 1.0, 0),
    ],
)
@pytest.mark.parametrize("spec", VARIANTS)
def test_the_budget_is_the_floor_of_the_share(llama, chunks, rate, k, spec):
    for prefix in (0, 3):
        prompt = random_prompt(prefix, chunks, 4)
        most = prompt.documents[1] - prompt.documents[0] - exact(prompt, spec)
        assert len(chosen(llama, prompt, spec, rate)) == min(k, most)


@pytest.mark.parametrize("name", EVERY_SELECTOR)
def test_a_choice_repeats(family, name):
    prompt = random_prompt(5, [40, 1, 33], 9, seed=2)
    first = fuse(family, prompt, name, 0.3)
    fuse(family, random_prompt(2, [90], 30), name, 0.9)
    again = fuse(family, prompt, name, 0.3)
    assert torch.equal(first.recomputed, again.recomputed)
    assert torch.equal(first.logits, again.logits)


@pytest.mark.parametrize("spec", [*EVERY_SELECTOR, *VARIANTS[len(RATED) :]])
def test_half_precision_states_are_scored_in_single(half, spec):
    """Scores in half precision would be refused where they are sorted."""
    prompt = shaped("usual", seed=3)
    prefill = fuse(half, prompt, spec, 0.4)
    positions = prefill.recomputed.tolist()
    assert positions == sorted(set(positions))
    documents = [p for p in positions if prompt.documents[0] <= p < prompt.documents[1]]
    assert len(documents) == (0 if spec in ("full", "cat") else 22)
    assert prefill.logits.dtype == torch.float32


@pytest.mark.parametrize("spec", VARIANTS)
def test_the_result_does_not_depend_on_what_was_in_the_cache(llama, spec):
    """Rows of an earlier, longer prompt lie behind this one's; nobody may look at them."""
    prompt = shaped("usual", seed=4)
    wanted = fuse(llama, prompt, spec, 0.3)
    llama.engine.cache.kv.fill_(torch.nan)
    found = fuse(llama, prompt, spec, 0.3)
    assert torch.equal(found.recomputed, wanted.recomputed)
    assert torch.equal(found.logits, wanted.logits)


@pytest.mark.parametrize(("prefix", "chunks"), [([], []), ([1], [[5, 6]]), ([], [[], [5]])])
def test_an_empty_question_is_refused_before_anything_is_run(prefix, chunks):
    with pytest.raises(ValueError, match="at least one token"):
        Prompt.join(prefix, chunks, [])


@pytest.mark.parametrize("spec", VARIANTS)
def test_nothing_but_a_question_of_one_token(llama, spec):
    prompt = Prompt.join([], [], [5])
    prefill = fuse(llama, prompt, spec, 0.5)
    assert prefill.recomputed.tolist() == [0]
    assert torch.allclose(prefill.logits, llama.logits([5])[-1], atol=1e-4)


CHECKING = ["debug", "debug:check=cached", "blend", "blend_debug"]


@pytest.mark.parametrize("spec", CHECKING)
@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (-1, "CHECK_LAYER=-1 must be at least 0"),
        (4, "layer 4 does not exist: the model has layers 0 to 3"),
        (9, "layer 9 does not exist: the model has layers 0 to 3"),
    ],
)
def test_a_check_layer_that_the_model_lacks(llama, prompt, spec, layer, told):
    with pytest.raises(UserError, match=told):
        fuse(llama, prompt, f"{spec}:check_layer={layer}", 0.2)


def test_filtering_beyond_the_last_layer(llama, prompt):
    assert len(chosen(llama, prompt, "blend:filter_layers=3", 0.2)) == 34
    with pytest.raises(UserError, match="layer 4 does not exist"):
        fuse(llama, prompt, "blend:filter_layers=4", 0.2)


def test_the_next_prefill_is_right_after_one_that_failed(llama, prompt):
    wanted = fuse(llama, prompt, "prophet", 0.2).logits
    with pytest.raises(UserError):
        fuse(llama, prompt, "blend:filter_layers=4", 0.2)
    assert torch.equal(fuse(llama, prompt, "prophet", 0.2).logits, wanted)
