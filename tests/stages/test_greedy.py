"""The greedy oracle: what it tries, what it takes, and what it says of a real model."""

from __future__ import annotations

import itertools
import json
import random

import pytest

import eval.study.greedy as greedy
from eval.study.greedy import GreedyConfig, blocks_of, grow, trials
from eval.variants import method_options
from stage.options import command
from tests.conftest import random_prompt


def by_hand(blocks, budget, distance):
    """Every set that is one block larger than the last, measured; the first of the least."""
    sets = [()]
    while True:
        used = sum(len(blocks[b]) for b in sets[-1])
        larger = [
            (*sets[-1], b)
            for b in range(len(blocks))
            if b not in sets[-1] and used + len(blocks[b]) <= budget
        ]
        if not larger:
            return [(sorted(p for b in found for p in blocks[b])) for found in sets[1:]]
        sets.append(
            min(larger, key=lambda found: distance(sorted(p for b in found for p in blocks[b])))
        )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [0, 3, 7, 20, 99])
def test_each_step_takes_the_block_that_leaves_the_least(seed, budget):
    rng = random.Random(seed)
    blocks = blocks_of(random_prompt(4, [9, 1, 0, 6], 3), rng.choice([1, 2, 4]))
    worth = {p: rng.uniform(-1, 2) for p in range(40)}
    pairs = {pair: rng.uniform(-1, 1) for pair in itertools.combinations(range(40), 2)}

    def distance(positions):
        assert positions == sorted(set(positions))
        both = itertools.combinations(positions, 2)
        return 50 - sum(worth[p] for p in positions) - sum(pairs[pair] for pair in both)

    count = []
    steps = grow(blocks, budget, distance, lambda: count.append(1))
    assert [chosen for chosen, _ in steps] == by_hand(blocks, budget, distance)
    assert [found for _, found in steps] == [distance(chosen) for chosen, _ in steps]
    assert all(len(chosen) <= budget for chosen, _ in steps)
    if {len(b) for b in blocks} == {1}:
        assert len(count) == trials(blocks, budget)


def test_blocks_are_cut_within_chunks_and_cover_the_documents():
    prompt = random_prompt(5, [10, 3, 0, 8], 4)
    blocks = blocks_of(prompt, 4)
    assert [len(block) for block in blocks] == [4, 4, 2, 3, 4, 4]
    assert [p for block in blocks for p in block] == list(range(*prompt.documents))
    for block in blocks:
        assert any(start <= block[0] and block[-1] < end for start, end in prompt.chunks)


def run(place, *options):
    named = {option.partition("=")[0] for option in options}
    given = [f"{name}={value}" for name, value in (("LIMIT", 2), ("BLOCK", 8)) if name not in named]
    words = place.argv("eval", *given, *options)[1:]
    return command("greedy", GreedyConfig, greedy.main, words, more=method_options)


@pytest.mark.parametrize(
    "more", [(), ("CORRECT=shift", "CONTEXT=prefix", "CODEC=int8")], ids=["plain", "more"]
)
def test_a_study_of_a_model(ready, capsys, more):
    assert run(ready, "REUSE=prophet random", "RATE=.2", *more) == 0
    out = capsys.readouterr().out
    path = next((ready.root / "outputs").glob("*/greedy-2wikimqa.json"))
    found = json.loads(path.read_text())
    suffix = " + shift @ prefix [int8]" if more else ""
    assert len(found["items"]) == 2
    assert found["context"] == ("prefix" if more else "sink")
    assert found["codec"] == ("int8" if more else "none")
    assert set(found["means"]) == {
        "nothing recomputed",
        f"prophet{suffix}",
        f"random{suffix}",
        "greedy",
    }
    for item in found["items"]:
        tokens = [count for count, _ in item["curve"]]
        assert tokens[0] == 0
        assert tokens == sorted(tokens)
        assert item["budget"] - 8 < len(item["positions"]) <= item["budget"]
        assert item["kl"]["greedy"] == item["curve"][-1][1] < item["kl"]["nothing recomputed"]
    kls = [item["kl"]["greedy"] for item in found["items"]]
    assert found["means"]["greedy"] == pytest.approx(sum(kls) / 2)
    gone = 1 - found["means"]["greedy"] / found["means"][f"random{suffix}"]
    assert found["room"][f"random{suffix}"] == pytest.approx(gone)
    assert f"random{suffix}" in out


def test_what_is_recomputed_of_a_full_set_is_the_full_prefill(ready, capsys):
    """With room for all, greedy's last set is everything: KL 0 but for rounding."""
    assert run(ready, "REUSE=random", "RATE=1", "LIMIT=1", "BLOCK=60") == 0
    path = next((ready.root / "outputs").glob("*/greedy-2wikimqa.json"))
    (item,) = json.loads(path.read_text())["items"]
    assert len(item["positions"]) == item["budget"]
    assert item["kl"]["greedy"] < 1e-6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("BLOCK=0",), "BLOCK=0 must be at least 1"),
        (("RATE=.1 .2",), "give one RATE and one CORRECT"),
        (("CORRECT=none shift",), "give one RATE and one CORRECT"),
        (("CODEC=bf16 int8",), "over one kind of KVs: give one CONTEXT for all of REUSE, and one"),
        (("DROP=snapkv",), "DROP= changes nothing here"),
        (("REUSE=prophett",), "did you mean prophet"),
    ],
)
def test_a_mistake_is_told_in_one_line(ready, capsys, options, told):
    assert run(ready, *options) == 2
    assert told in capsys.readouterr().err
