"""Overlap of selections, against Python's sets."""

from __future__ import annotations

import base64
import random

import numpy as np
import pytest

from eval.analysis.overlap import decode, matrices, matrix, share
from eval.report.overlaps import table


def encode(chosen: set[int], documents: int) -> str:
    packed = bytearray(-(-documents // 8))
    for i in chosen:
        packed[i // 8] |= 1 << (i % 8)
    return base64.b64encode(packed).decode()


def result(method: str, rate: float | None, chosen: list[set[int]], documents: int = 19) -> dict:
    return {
        "config": {"method": method, "options": {} if rate is None else {"rate": rate}},
        "oracle": method.startswith("oracle"),
        "items": [{"selected": encode(c, documents), "documents": documents} for c in chosen],
    }


@pytest.mark.parametrize("documents", [1, 7, 8, 9, 64, 1001])
def test_the_bits_are_read_in_order(documents):
    chosen = set(random.Random(documents).sample(range(documents), documents // 2))
    mask = decode(encode(chosen, documents), documents)
    assert mask.shape == (documents,)
    assert set(np.flatnonzero(mask)) == chosen
    again = base64.b64encode(np.packbits(mask, bitorder="little")).decode()
    assert again == encode(chosen, documents)


@pytest.mark.parametrize("documents", [8, 17])
def test_a_mask_of_another_length_is_refused(documents):
    with pytest.raises(ValueError, match="do not hold"):
        decode(encode({1}, 9), documents)


def test_no_documents():
    assert decode("", 0).shape == (0,)


def test_share_by_hand():
    one, two = decode(encode({0, 1, 2, 3}, 9), 9), decode(encode({3, 8}, 9), 9)
    nothing = np.zeros(9, bool)
    assert share(one, two) == 0.5
    assert share(two, one) == 0.25
    assert share(nothing, one) == 0
    assert share(one, nothing) is None
    assert share(nothing, nothing) is None


def test_of_a_selector_s_runs_one_is_enough():
    """A corrector changes no choice."""
    names = ("random", "random + shift", "debug + shift", "debug:check=cached", "debug + mean")
    runs = [result(name, 0.1, [{1, 2}]) for name in names]
    assert matrix(runs, 0.1)["methods"] == ["random", "debug + shift", "debug:check=cached"]


def test_the_matrix_against_sets():
    rng = random.Random(0)
    sets = {
        name: [set(rng.sample(range(19), rng.randint(1, 19))) for _ in range(7)]
        for name in ("random", "debug", "oracle_kv")
    }
    found = matrix([result(name, 0.3, chosen) for name, chosen in sets.items()], 0.3)
    assert found["methods"] == list(sets)
    assert found["oracles"] == ["oracle_kv"]
    assert found["items"] == [[7] * 3] * 3
    for row, ours in zip(found["mean"], sets.values(), strict=True):
        for mean, theirs in zip(row, sets.values(), strict=True):
            pairs = zip(ours, theirs, strict=True)
            assert mean == pytest.approx(sum(len(a & b) / len(b) for a, b in pairs) / 7)


def test_items_with_an_empty_reference_are_left_out():
    found = matrix(
        [result("a", 0.1, [{1, 2}, {3}]), result("b", 0.1, [set(), {3, 4}])],
        0.1,
    )
    assert found["items"] == [[2, 1], [2, 1]]
    assert found["mean"] == [[1.0, 0.5], [0.5, 1.0]]
    nothing = matrix([result("a", 0, [set()]), result("b", 0, [set()])], 0)
    assert nothing["mean"] == [[None, None], [None, None]]


def test_methods_meet_at_their_own_rate_and_those_without_one_not_at_all():
    runs = [
        result("no", None, [set(range(19))]),
        result("full", None, [set()]),
        result("a", 0.1, [{1}]),
        result("a", 0.2, [{1, 2}]),
        result("b", 0.2, [{2, 3}]),
    ]
    runs.append({**result("c", 0.2, [{2}]), "items": [{"selected": None, "documents": 19}]})
    found = matrices(runs)
    assert [(m["rate"], m["methods"]) for m in found] == [(0.1, ["a"]), (0.2, ["a", "b"])]
    assert found[1]["mean"] == [[1.0, 0.5], [0.5, 1.0]]


def test_the_table_shows_the_middle_rate_and_the_oracles_at_all():
    runs = [result(name, 0.0, [set()]) for name in ("a", "b", "oracle_kv")]
    for rate, ours in ((0.1, {0}), (0.2, {0, 1}), (0.3, {0, 1, 2, 3})):
        runs += [
            result("a", rate, [ours]),
            result("b", rate, [{0, 9}]),
            result("oracle_kv", rate, [{0, 1, 2, 3}]),
        ]
    runs += [result(name, 1.0, [set(range(19))]) for name in ("a", "b", "oracle_kv")]
    lines = [line.split() for line in table(matrices(runs)).splitlines()]
    assert lines[0] == ["overlap", "%", "at", "0.2", "a", "b", "oracle_kv"]
    assert ["a", "100", "50", "50"] in lines
    assert ["b", "50", "100", "25"] in lines
    assert ["with", "oracle_kv,", "at", "rate", "0.1", "0.2", "0.3"] in lines
    assert ["a", "25", "50", "100"] in lines
    assert ["b", "25", "25", "25"] in lines


def test_nothing_to_tell_is_no_table():
    assert table([]) == ""
    assert table(matrices([result("a", 0.2, [{1}])])) == ""
    assert table(matrices([result(name, 1.0, [{1}]) for name in "ab"])) == ""


def test_an_oracle_that_ran_at_some_rates_only():
    runs = [result(name, rate, [{1}]) for rate in (0.1, 0.2, 0.3) for name in "ab"]
    text = table(matrices([*runs, result("oracle_kv", 0.3, [{1, 2}])]))
    assert [line.split() for line in text.splitlines() if line.startswith("a ")] == [
        ["a", "100", "100"],
        ["a", "-", "-", "50"],
    ]
