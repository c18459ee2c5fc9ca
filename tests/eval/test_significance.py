"""Tests of differences against every sign pattern, worked examples and simulated nulls."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.stats import ttest_rel

from eval.analysis.significance import (
    EXACT,
    holm,
    hopeless,
    p_values,
    sign_flip,
    sign_test,
    verdict,
)
from eval.analysis.stats import bootstrap

RNG = np.random.default_rng(0)
FEW_TIES = [
    [7],
    [0, 7, 0],
    [1, 1, 1, 1],
    [1, 2, 3, 4, 5, -15],
    [3, -1, 0, 4, 0, 2, 2],
    [0.1, 0.2, 0.3, -0.3, -0.6],
    [100 / 3, 200 / 3, -100, 50, 100 / 3, 0, 100 / 7],
    [-5, -5, -5, 1, -5, 2],
    [1e-6, 1e-6, 3e-6, 1e-6, -1e-6],
]


def brute(differences: list[float]) -> float:
    """Every pattern of signs over every item, counted one by one."""
    n, found = len(differences), abs(sum(differences))
    slack = 1e-9 * sum(map(abs, differences))
    far = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= found - slack
        for signs in product((1, -1), repeat=n)
    )
    return far / 2**n


@pytest.mark.parametrize(
    "differences", [*FEW_TIES, *(RNG.normal(0.5, 1, n).round(1).tolist() for n in (2, 7, 9, 10))]
)
def test_few_items_are_tested_against_every_sign_pattern(differences):
    found = sign_flip(np.array([differences], float), seed=0)
    assert found == pytest.approx([min(1.0, brute(differences))], abs=1e-12)


def test_four_wins_and_no_loss_among_ties_prove_nothing():
    """Of the 2^4 patterns of signs two are as far out: p = 2/16, however many items are tied.

    The bootstrap's interval leaves 0 out: only a resample without any of the four reaches it.
    """
    differences = np.zeros((1, 20))
    differences[0, [2, 5, 11, 19]] = [10, 100, 33.3, 50]
    (p,) = sign_flip(differences, seed=0)
    assert p == 0.125
    assert bootstrap(differences[0], 0)[0] > 0
    assert sign_test(differences) == pytest.approx([0.125])
    assert verdict(p, 9.7, higher_is_better=True) == "not told apart"


def test_no_difference_is_no_evidence():
    for statistic in ("mean", "median"):
        assert p_values(np.zeros((2, 7)), statistic, 0).tolist() == [1, 1]


def test_rows_are_tested_each_by_itself():
    rows = np.array(
        [[0.0] * 30, [1.0] * 30, [1.0, -2.0, 4.0] + [0.0] * 27, list(range(-9, 21)), [1.0] * 30]
    )
    together = sign_flip(rows, 3)
    assert together.tolist() == [sign_flip(row[None], 3)[0] for row in rows]
    assert sign_flip(rows[::-1], 3).tolist() == together[::-1].tolist()


def test_more_rows_than_are_held_at_a_time():
    rows = RNG.normal(0.3, 1, (150, EXACT + 4))
    assert sign_flip(rows, 0)[[0, 70, 149]].tolist() == sign_flip(rows[[0, 70, 149]], 0).tolist()


@pytest.mark.parametrize("n", [EXACT - 1, EXACT, EXACT + 1])
def test_exact_and_random_flips_agree(n):
    """At the border: equal steps have the binomial's p, whichever way it was reached."""
    wins = n - 3
    row = np.array([[1.0] * wins + [-1.0] * (n - wins)])
    wanted = 2 * sum(comb(n, k) for k in range(n - wins + 1)) / 2**n
    slack = 0 if n <= EXACT else 5 * (wanted / 99_999) ** 0.5
    assert sign_flip(row, 0) == pytest.approx([wanted], abs=slack + 1e-12)


def test_many_items_have_the_p_of_students_test():
    rows = RNG.normal(0, 1, (6, 300)) + np.linspace(0, 0.2, 6)[:, None]
    wanted = [ttest_rel(row, np.zeros(300)).pvalue for row in rows]
    assert sign_flip(rows, 0) == pytest.approx(wanted, abs=0.012)


def test_a_seed_repeats():
    rows = RNG.normal(0.2, 1, (3, 40))
    assert sign_flip(rows, 1).tolist() == sign_flip(rows, 1).tolist()
    assert sign_flip(rows, 1).tolist() != sign_flip(rows, 2).tolist()
    few = rows[:, :9]
    assert sign_flip(few, 1).tolist() == sign_flip(few, 2).tolist()  # exact


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("n", [9, 40])
def test_swapping_the_two_changes_no_p(statistic, n):
    rows = RNG.normal(0.3, 1, (5, n)).round(1)
    there, back = (p_values(sign * rows, statistic, 0).tolist() for sign in (1, -1))
    assert there == back


@pytest.mark.parametrize("n", [12, 40])
def test_the_order_and_the_unit_of_items_change_no_exact_p(n):
    rows = np.zeros((1, n))
    rows[0, :11] = RNG.normal(0.5, 1, 11)
    assert sign_flip(rows, 0) == pytest.approx(sign_flip(1e-5 * rows[:, ::-1], 0), abs=1e-12)


@pytest.mark.parametrize("n", [8, 20, 40])
def test_the_null_is_claimed_as_often_as_five_in_a_hundred(n):
    """Tied, coarse, skewed items that it does not matter to: at most 5% of 400 trials say so.

    400 trials of probability 0.05 give more than 33 in one case of 1,000.
    """
    rng = np.random.default_rng(n)
    ours, theirs = rng.choice([0, 0, 0, 50, 100], (2, 400, n)) + 10 * rng.integers(0, 2, (1, 1, n))
    tied = rng.random((400, n)) < 0.4
    rows = np.where(tied, 0, ours - theirs).astype(float)
    assert (sign_flip(rows, 0) < 0.05).sum() <= 33
    times = np.where(tied, 0, rng.exponential(1, (400, n)) - rng.exponential(1, (400, n)))
    assert (sign_test(times) < 0.05).sum() <= 33


def test_a_family_of_nulls_is_claimed_once_in_twenty_at_most():
    rng = np.random.default_rng(5)
    rows = rng.choice([-1.0, 0, 1.0], (200 * 12, 14))
    p = sign_flip(rows, 0).reshape(200, 12)
    assert sum(min(holm(family)) < 0.05 for family in p.tolist()) <= 20
    assert sum(min(family) < 0.05 for family in p.tolist()) > 20  # uncorrected


def test_a_real_difference_is_found():
    rng = np.random.default_rng(6)
    rows = rng.normal(1, 1, (50, 20))
    assert (sign_flip(rows, 0) < 0.05).sum() >= 45
    assert (sign_test(rows) < 0.05).sum() >= 40


def test_times_are_told_apart_by_their_sides():
    """One item that a busy machine stretched outweighs all others in a mean, not here."""
    times = np.array([[-5.0] * 19 + [900.0]])
    assert sign_test(times) == pytest.approx([2 * 21 / 2**20])
    assert sign_flip(times, 0)[0] > 0.5
    assert p_values(times, "median", 0).tolist() == sign_test(times).tolist()
    assert p_values(times, "mean", 0).tolist() == sign_flip(times, 0).tolist()


def test_times_that_are_skewed_about_no_difference_are_no_claim():
    """Differences of median 0 whose tail is to one side: flipping signs would claim them."""
    rng = np.random.default_rng(7)
    rows = rng.exponential(1, (200, 60)) - np.log(2)
    assert (sign_flip(rows, 0) < 0.05).sum() > 60
    assert (sign_test(rows) < 0.05).sum() <= 20


def test_holm_by_hand():
    """Four p of 0.01, 0.04, 0.03 and 0.005: times 4, 3, 2, 1 from the smallest, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.001, 0.9]) == pytest.approx([1, 0.003, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([0.02] * 3) == pytest.approx([0.06] * 3)


def test_holm_by_its_definition():
    """A p is claimed at a level if it and every smaller one pass their own step of it."""
    p = np.random.default_rng(8).random(9) ** 3
    corrected = holm(p.tolist())
    for level in np.linspace(0.01, 0.99, 50):
        claimed = set()
        for step, place in enumerate(np.argsort(p)):
            if p[place] > level / (9 - step):
                break
            claimed.add(int(place))
        assert claimed == {i for i, value in enumerate(corrected) if value <= level}


@pytest.mark.parametrize(
    ("p", "estimate", "higher", "lower"),
    [
        (0.049, 2.0, "better", "worse"),
        (0.049, -2.0, "worse", "better"),
        (0.05, 2.0, "not told apart", "not told apart"),
        (0.3, -2.0, "not told apart", "not told apart"),
        (0.001, 0.0, "not told apart", "not told apart"),  # a median among ties has no side
    ],
)
def test_a_claim_needs_a_small_p_and_a_side(p, estimate, higher, lower):
    assert verdict(p, estimate, higher_is_better=True) == higher
    assert verdict(p, estimate, higher_is_better=False) == lower


def test_what_no_items_could_show():
    """The least p of six items is 2/64; of two comparisons each, Holm makes it 4/64."""
    assert not hopeless(6, 1)
    assert hopeless(5, 1)
    assert hopeless(6, 2)
    assert not hopeless(7405, 1000)
    for items, family in ((6, 1), (5, 1), (6, 2), (9, 12), (9, 13)):
        least = sign_flip(np.ones((1, items)), 0)[0]
        assert (holm([least] * family)[0] >= 0.05) == hopeless(items, family)
