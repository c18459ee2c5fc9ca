"""Answers decoded side by side are those that are decoded alone."""

from __future__ import annotations

import pytest
import torch

from models.decoding.answers import ROWS, NoAnswer
from models.prompt import Prompt
from tests.models.selector_references import fuse

COUNT = 9


def prompts(prompt: Prompt) -> list[Prompt]:
    """The prompt, and others of other lengths and chunks."""
    ids = list(prompt.ids)
    return [
        prompt,
        Prompt.join(ids[:3], [ids[5:20], ids[9:31]], ids[-7:]),
        Prompt.join(ids[:2], [ids[10:40]], ids[-4:]),
        Prompt.join([], [ids[4:11]], ids[-2:]),
    ]


def starts(family, prompt, count):
    """So many prefills one after the other: full and fused ones of prompts of several lengths."""
    family.engine.cache.reserve(len(prompt) + 2 * COUNT)
    found = prompts(prompt)
    for number in range(count):
        method = ("no", "random", "full", "blend")[number % 4]
        which = found[number // 4 % len(found)]
        if method == "no":
            yield family.engine.full_prefill(which)
        else:
            yield fuse(family, which, method, 0.3)


@pytest.mark.parametrize("count", [1, 2, ROWS, ROWS + 3])
def test_together_as_alone(family, prompt, count):
    engine = family.engine
    together = engine.together
    alone, answers = [], []
    for number, prefill in enumerate(starts(family, prompt, count)):
        limit = COUNT - number % 3
        alone.append(engine.decode(prefill, limit, ()).tokens)
        answers.append(engine.answer(prefill, limit, ()))
    assert together.bytes >= sum(answer.cache.kv.nbytes for answer in answers)
    together.finish()
    assert [answer.tokens for answer in answers] == alone
    assert together.active == []
    together.clear()
    assert together.bytes == 0


def test_stop_tokens_end_each_by_itself(family, prompt):
    engine = family.engine
    together = engine.together
    expected, answers = [], []
    for number, prefill in enumerate(starts(family, prompt, 5)):
        free = engine.decode(prefill, COUNT, ()).tokens
        stops = {free[number]} if number < 3 else {151}
        expected.append(engine.decode(prefill, COUNT, stops))
        answers.append(engine.answer(prefill, COUNT, stops))
    together.finish()
    assert [answer.tokens for answer in answers] == [found.tokens for found in expected]
    assert [answer.stop_token for answer in answers] == [found.stop_token for found in expected]


def test_from_a_known_beginning(family, prompt):
    engine = family.engine
    together = engine.together
    alone, answers = [], []
    for number, prefill in enumerate(starts(family, prompt, 4)):
        tokens = engine.decode(prefill, COUNT, ()).tokens
        given = tokens[: 2 * number]
        engine.follow(prefill, given or tokens[:1])
        answers.append(engine.answer(prefill, COUNT, (), given))
        alone.append(tokens)
    together.finish()
    assert [answer.tokens for answer in answers] == alone


def test_one_in_the_engines_own_cache_while_others_wait(family, prompt):
    """They ride along until it is complete; then the engine is free for the next prefill."""
    engine = family.engine
    together = engine.together
    alone, answers = [], []
    for number, prefill in enumerate(starts(family, prompt, 4)):
        alone.append(engine.decode(prefill, COUNT, ()).tokens)
        own = number % 2 == 0
        answer = engine.answer(prefill, COUNT if own else 3, (), own=own)
        answers.append(answer)
        if not own:
            together.finish(answer)
            assert answer.tokens == alone[-1][:3]
            engine.follow(prefill, alone[-1])
            assert engine.decode(prefill, COUNT, (), alone[-1][:4]).tokens == alone[-1]
    together.finish()
    assert [answer.tokens for answer in answers] == [alone[0], alone[1][:3], alone[2], alone[3][:3]]


def test_an_answer_does_not_depend_on_its_company(llama, prompt):
    """Bit for bit: the same rows of keys and values, whoever is beside it."""
    engine, found = llama.engine, []
    together = engine.together
    for company in (0, 1, ROWS - 1, ROWS + 4):
        for prefill in starts(llama, prompt, company):
            engine.answer(prefill, COUNT, ())
        mine = engine.answer(fuse(llama, prompt, "random", 0.3), COUNT, ())
        together.active.remove(mine)
        together.active.insert(company // 2, mine)
        together.finish()
        found.append((mine.tokens, mine.cache.kv[:, :, :, : mine.cache.length].clone()))
        together.clear()
    for tokens, kv in found[1:]:
        assert tokens == found[0][0]
        assert torch.equal(kv, found[0][1])


def test_nan_is_refused_by_name_and_the_others_go_on(llama, prompt):
    engine = llama.engine
    together = engine.together
    answers = []
    for number, prefill in enumerate(starts(llama, prompt, 3)):
        answers.append(engine.answer(prefill, COUNT, (), name=f"item {number}"))
    with torch.inference_mode():
        answers[1].cache.kv[1, 0, 0, 2] = torch.nan
    with pytest.raises(NoAnswer, match=r"^item 1: the logits hold NaN"):
        together.finish()
    together.finish()
    together.clear()
    assert len(answers[0].tokens) == len(answers[2].tokens) == COUNT


@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize("shorter", [0, 1])
def test_answers_beside_one_that_is_refused_are_as_alone(llama, prompt, bad, shorter):
    """Also those that end in the very step in which it is refused."""
    engine, together = llama.engine, llama.engine.together
    alone, answers = [], []
    for number, prefill in enumerate(starts(llama, prompt, 3)):
        limit = 2 if number == (bad + shorter) % 3 and shorter else COUNT
        alone.append(engine.decode(prefill, limit, ()).tokens)
        answers.append(engine.answer(prefill, limit, (), name=f"item {number}"))
    with torch.inference_mode():
        answers[bad].cache.kv[1, 0, 0, 2] = torch.nan
    with pytest.raises(NoAnswer, match=f"^item {bad}: the logits hold NaN"):
        together.finish()
    together.finish()
    together.clear()
    for number in {0, 1, 2} - {bad}:
        assert answers[number].tokens == alone[number]


def test_an_answer_that_is_complete_at_once_costs_no_step(llama, prompt):
    engine, together = llama.engine, llama.engine.together
    prefill = engine.full_prefill(prompt)
    for limit, stops in ((1, ()), (5, {prefill.first_token})):
        answer = engine.answer(prefill, limit, stops)
        assert answer.done
        assert together.active == []
        together.finish(answer)
        assert len(answer.tokens) == (0 if stops else 1)


def test_only_the_latest_prefill_is_answered(llama, prompt):
    engine = llama.engine
    held = engine.full_prefill(prompt)
    with pytest.raises(ValueError, match="follow them first"):
        engine.answer(held, COUNT, (), [5, 6])
    engine.full_prefill(prompt)
    with pytest.raises(ValueError, match="not the latest"):
        engine.answer(held, COUNT, ())


def test_memory_is_used_again_and_does_not_pile_up(llama, prompt):
    engine, together = llama.engine, llama.engine.together
    together.clear()
    long, short = prompts(prompt)[0], prompts(prompt)[3]
    held = []
    for prefilled in (long, short, long, short):
        engine.cache.reserve(len(long) + COUNT)
        engine.answer(engine.full_prefill(prefilled), COUNT, ())
        together.finish()
        held.append(together.bytes)
    assert held == held[:1] * 4
    together.clear()
