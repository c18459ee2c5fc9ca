"""Selectors that know their positions before anything is computed for the question."""

from __future__ import annotations

import pytest
import torch

from models import selectors
from models.errors import UserError
from models.gate import reader
from models.kv import store
from models.kv.capture import capture
from models.prompt import Prompt
from models.selectors import BaseSelector
from tests.conftest import Family, random_prompt
from tests.models.library_states import SINK, sinks, surprisal
from tests.models.selector_references import (
    RATES,
    SHAPES,
    assert_best,
    bare_probe,
    captured,
    chosen,
    fuse,
    shaped,
)

REMEDY = "make precompute MODEL=tiny"


def hamilton(lengths: list[int], k: int) -> list[int]:
    """Shares by quota, the odd tokens one by one to whoever is furthest below its quota."""
    counts = [0] * len(lengths)
    for i, length in enumerate(lengths):
        while (counts[i] + 1) * sum(lengths) <= length * k:
            counts[i] += 1
    while sum(counts) < k:
        below = [n * k - count * sum(lengths) for n, count in zip(lengths, counts, strict=True)]
        counts[below.index(max(below))] += 1
    return counts


def told(prompt: Prompt, spec: str | BaseSelector, rate: float, scores: torch.Tensor) -> list[int]:
    """Document positions chosen by these offline scores."""
    probe = bare_probe(prompt, rate, scores)
    selector = selectors.build(spec) if isinstance(spec, str) else spec
    positions = selector.select(probe).sort().values.tolist()
    return [p for p in positions if p < prompt.question[0]]


# By position


@pytest.mark.parametrize("shape", [*SHAPES, "several"])
@pytest.mark.parametrize("k", [0, 1, 2, 3, 7, 20, 40])
def test_epic_takes_the_head_of_each_chunk(llama, shape, k):
    prompt = random_prompt(2, [13, 1, 7, 7, 20], 3) if shape == "several" else shaped(shape)
    lengths = [end - start for start, end in prompt.chunks]
    k = min(k, sum(lengths))
    counts = hamilton(lengths, k)
    wanted = [
        p
        for (start, _), n in zip(prompt.chunks, counts, strict=True)
        for p in range(start, start + n)
    ]
    assert chosen(llama, prompt, "epic", k / sum(lengths)) == wanted


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("lego_k", "wanted"),
    [(0, []), (1, [5, 35, 36]), (2, [5, 6, 35, 36, 37]), (100, list(range(5, 60)))],
)
def test_lego_k_is_by_chunk_and_does_not_look_at_the_rate(llama, rate, lego_k, wanted):
    assert chosen(llama, shaped("usual"), f"epic:lego_k={lego_k}", rate) == wanted


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, *RATES, 1.0])
def test_tail_ratio_takes_the_end(llama, shape, rate):
    prompt = shaped(shape)
    first, last = prompt.documents
    k = int((last - first) * rate)
    assert chosen(llama, prompt, "tail_ratio", rate) == list(range(last - k, last))


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_full_and_cat_do_not_know_a_rate(llama, prompt, rate):
    assert fuse(llama, prompt, "full", rate).recomputed.tolist() == list(range(*prompt.question))
    assert fuse(llama, prompt, "cat", rate).recomputed.tolist() == [len(prompt) - 1]


# By chance


def test_random_repeats_with_its_seed_and_differs_without(llama, prompt):
    first = chosen(llama, prompt, "random", 0.3, seed=1)
    assert chosen(llama, prompt, "random", 0.3, seed=1) == first
    assert chosen(llama, prompt, "random", 0.3, seed=2) != first


def test_random_is_uniform():
    prompt = random_prompt(2, [6, 4], 2)
    selector = selectors.make("random")
    counts, draws = [0] * 10, 400
    for seed in range(draws):
        positions = selector.select(bare_probe(prompt, 0.3, seed=seed)).tolist()
        assert len(set(positions)) == 3
        for position in positions:
            counts[position - 2] += 1
    # A position is drawn 120 times in the mean, with a standard deviation of 9.2.
    assert all(abs(count - 0.3 * draws) < 4.5 * 9.2 for count in counts)


# By surprisal


@pytest.mark.parametrize("shape", SHAPES)
def test_surprisal_chunk_takes_the_most_surprising_of_each_chunk(family, shape):
    prompt = shaped(shape, seed=31)
    lengths = [end - start for start, end in prompt.chunks]
    for rate in (0.0, *RATES, 1.0):
        positions = chosen(family, prompt, "surprisal_chunk", rate)
        counts = hamilton(lengths, int(sum(lengths) * rate))
        for span, count in zip(prompt.chunks, counts, strict=True):
            within = [p for p in positions if span[0] <= p < span[1]]
            assert_best(within, surprisal(family, prompt, span), span[0], count)


def test_equal_surprisal_goes_to_the_earlier():
    prompt = random_prompt(2, [4, 1, 5], 2)
    assert told(prompt, "surprisal_chunk", 0.5, torch.zeros(14)) == [2, 3, 6, 7, 8]
    later = torch.tensor([9.0, 9, 1, 2, 2, 2, 5, 0, 0, 3, 0, 3, 9, 9])
    assert told(prompt, "surprisal_chunk", 0.4, later) == [3, 4, 9, 11]


# By attention sinks


@pytest.mark.parametrize("shape", SHAPES)
def test_attnlink_takes_the_sinks_and_the_question(family, shape):
    prompt = shaped(shape, seed=32)
    scores = [score for span in prompt.chunks for score in sinks(family, prompt, span)]
    for rate in (0.0, *RATES, 1.0):
        positions = chosen(family, prompt, "attnlink:chance=none", rate)
        assert_best(positions, scores, prompt.documents[0], int(len(scores) * rate))


def test_equal_sinks_go_to_the_earlier():
    assert told(random_prompt(2, [4, 1, 5], 2), "attnlink:chance=none", 0.4, torch.ones(14)) == [
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("name", ["surprisal_chunk", "attnlink"])
def test_scores_that_nobody_kept(llama, name):
    prompt = shaped("usual")
    with pytest.raises(UserError, match="keep them when precomputing"):
        llama.engine.fused_prefill(
            prompt,
            reader(captured(llama, prompt).kv),
            selectors.make(name),
            0.2,
            torch.Generator(),
        )


def stored(family: Family, folder, prompt: Prompt, size: int, scores=()) -> store.StoredItem:
    meta = store.describe(
        family.engine.modules,
        prompt,
        model="m",
        weights="w",
        tokenizer="t",
        chunking={"size": size},
    )
    store.write(folder, capture(family.engine.modules, prompt, SINK, scores), meta)
    return store.StoredItem(folder, meta, REMEDY)


@pytest.mark.parametrize(
    ("name", "kept"), [("surprisal_chunk", "surprisal"), ("attnlink", "sinks")]
)
@pytest.mark.parametrize("case", ["missing", "another chunking", "damaged"])
def test_scores_that_do_not_fit_are_told_with_the_command(llama, tmp_path, name, kept, case):
    prompt = random_prompt(3, [20, 20], 4)
    item = stored(llama, tmp_path, prompt, 20, [kept])
    path = tmp_path / f"{kept}.pt"
    if case == "missing":
        path.unlink()
        wanted = f"{path} is missing; build it: {REMEDY}"
    elif case == "damaged":
        path.write_bytes(path.read_bytes()[:99])
        wanted = rf"{path} is damaged \(.*\); rebuild it: {REMEDY}"
    else:
        old = path.read_bytes()
        item = stored(llama, tmp_path, random_prompt(3, [16, 16, 8], 4), 16)
        path.write_bytes(old)
        wanted = rf"{path} does not fit .* 20 in the file, .* 16; .*: {REMEDY}"
    selector = selectors.make(name)
    for ask in (
        lambda: selector.select(bare_probe_over(prompt, item)),
        lambda: item.check(selector.needs),
    ):
        with pytest.raises(UserError, match=f"^{wanted}$"):
            ask()


def bare_probe_over(prompt: Prompt, item: store.StoredItem):
    probe = bare_probe(prompt, 0.2)
    probe._scores = item.scores
    return probe


def test_scores_from_disk_choose_as_those_in_memory(llama, tmp_path):
    prompt = random_prompt(3, [20, 1, 20], 4)
    item = stored(llama, tmp_path, prompt, 20, ["surprisal", "sinks"])
    for name in ("surprisal_chunk", "attnlink"):
        found = selectors.make(name).select(bare_probe_over(prompt, item)).sort().values.tolist()
        assert [p for p in found if p < prompt.question[0]] == chosen(llama, prompt, name, 0.2)
