"""Greedy decoding from an answer's known beginning."""

from __future__ import annotations

import pytest
import torch

from tests.models.selector_references import fuse

COUNT = 9


@pytest.fixture(params=["no", "random", "cat"])
def method(request):
    return request.param


def prefill(family, prompt, method):
    if method == "no":
        family.engine.cache.reserve(len(prompt) + 16)
        return family.engine.full_prefill(prompt)
    return fuse(family, prompt, method, 0.3)


def test_a_known_beginning_leads_to_the_same_answer(family, prompt, method):
    engine, start = family.engine, prefill(family, prompt, method)
    answer = engine.decode(start, COUNT, ()).tokens
    assert len(answer) == COUNT
    for known in (1, 2, COUNT - 1, COUNT):
        given = answer[:known]
        engine.follow(start, given)
        found = engine.decode(start, COUNT, (), given)
        assert found.tokens == answer
        assert found.stop_token is None
        assert len(found.step_ms) == COUNT - known


def test_what_was_decoded_before_is_forgotten(llama, prompt):
    """The cache holds another answer's rows where the given one goes on."""
    engine, start = llama.engine, prefill(llama, prompt, "full")
    answer = engine.decode(start, COUNT, ()).tokens
    engine.follow(start, [5] * 12)
    engine.follow(start, answer[:4])
    assert engine.decode(start, COUNT, (), answer[:4]).tokens == answer


def test_another_token_leads_to_what_the_library_makes_of_it(family, prompt):
    engine, start = family.engine, prefill(family, prompt, "no")
    given = [*engine.decode(start, 3, ()).tokens, 44]
    engine.follow(start, given)
    out = family.library.generate(
        torch.tensor([[*prompt.ids, *given]]),
        attention_mask=torch.ones(1, len(prompt) + 4, dtype=torch.long),
        max_new_tokens=COUNT - 4,
        do_sample=False,
        eos_token_id=None,
    )
    wanted = out[0, len(prompt) :].tolist()
    assert engine.decode(start, COUNT, (), given).tokens == wanted


def test_a_stop_token_ends_it_wherever_it_comes(llama, prompt):
    engine, start = llama.engine, prefill(llama, prompt, "random")
    answer = engine.decode(start, COUNT, ()).tokens
    stop = answer[5]
    first = answer.index(stop)
    assert engine.decode(start, COUNT, {stop}).tokens == answer[:first]
    for known in range(1, first + 2):  # the last of these gives the stop token itself
        engine.follow(start, answer[:known])
        found = engine.decode(start, COUNT, {stop}, answer[:known])
        assert found.tokens == answer[:first]
        assert found.stop_token == stop
