"""Intervals and medians, against cases whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from eval.analysis.stats import bootstrap, middle, paired, per_item, ratio, spread


def assert_exact(
    ci95: Sequence[float], n: int, statistic: Callable[[Sequence[int]], float], jumps: bool = True
) -> None:
    """The interval is that of all n^n resamples, each as likely as the other.

    10,000 draws place a quantile within 0.008 of its share (five standard errors); ``jumps``: the
    values there are one and the same, so that the quantile must be met exactly.
    """
    found = sorted(statistic(items) for items in product(range(n), repeat=n))
    for end, share in zip(ci95, (0.025, 0.975), strict=True):
        low, high = (found[int((share + slack) * len(found))] for slack in (-0.008, 0.008))
        assert not jumps or high - low < 1e-9
        assert low - 1e-9 <= end <= high + 1e-9


def compared(values: list, others: list, seed: int, statistic: str = "mean") -> dict:
    return paired(per_item(values, others), seed, statistic)


def test_the_interval_of_a_mean_is_the_normal_one():
    """For 400 normal values the bootstrap's interval is mean ± 1.96 s/√n, up to its own noise."""
    values = np.random.default_rng(0).normal(10, 3, 400)
    low, high = bootstrap(list(values), seed=0)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_interval_of_two_values_is_exact():
    """Of the four resamples of (0, 1) a quarter are 0 and a quarter 1: more than 2.5% each."""
    assert bootstrap([0.0, 1.0], seed=3) == (0.0, 1.0)


def test_the_interval_of_a_share_is_the_binomial_one():
    """Resampling 30 ones and 70 zeros draws Binomial(100, 0.3): 2.5% and 97.5% lie at 21 and 39."""
    low, high = bootstrap([1.0] * 30 + [0.0] * 70, seed=0)
    assert low == pytest.approx(0.21, abs=0.011)
    assert high == pytest.approx(0.39, abs=0.011)


def test_the_interval_of_a_median_covers_as_often_as_it_says():
    """About 95 of 100 intervals over samples of a known distribution hold its median."""
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        low, high = bootstrap(list(rng.exponential(1, 40)), seed, "median")
        hits += low <= math.log(2) <= high
    assert 51 <= hits <= 60


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("values", [[2.5], [2.5] * 9])
def test_constants_have_no_width(values, statistic):
    assert bootstrap(values, 0, statistic) == (2.5, 2.5)


def test_a_seed_repeats():
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    assert bootstrap(values, 1) == bootstrap(values, 1)
    assert bootstrap(values, 1, "median") == bootstrap(values, 1, "median")
    many = list(np.random.default_rng(0).normal(size=50))
    assert bootstrap(many, 1) != bootstrap(many, 2)


def test_spread():
    found = spread([10.0, 20.0, 30.0, 40.0, 1000.0], seed=0)
    assert found["median"] == 30
    assert 40 < found["p95"] < 1000
    low, high = found["ci95"]
    assert low <= 30 <= high


@pytest.mark.parametrize(
    ("values", "indices"),
    [([5.0], {0}), ([9.0, 1.0, 4.0], {2}), ([9.0, 1.0, 4.0, 5.0], {2, 3}), ([3.0, 3.0], {0, 1})],
)
def test_middle_items_make_the_median(values, indices):
    found = middle(values)
    assert set(found) == indices
    assert np.mean([values[i] for i in found]) == np.median(values)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_bootstrap_draws_what_it_has_always_drawn(statistic):
    """Digit for digit: intervals of finished runs must stay what they were."""
    values = np.random.default_rng(5).normal(size=23)
    rng = np.random.default_rng(9)
    draws = [
        getattr(np, statistic)(values[rng.integers(0, 23, (1000, 23))], axis=1) for _ in range(10)
    ]
    expected = np.percentile(np.concatenate(draws), [2.5, 97.5])
    assert bootstrap(list(values), 9, statistic) == tuple(expected)


@pytest.mark.parametrize(
    "differences",
    [[1, 1, 1, 1, 1, -1], [1, 1, 0, 0, -1, -1], [-1, -1, -1, -1, -1, 0], [2, 2, 2, 2, 2, -9]],
)
def test_few_differences_have_the_interval_of_all_their_resamples(differences):
    others = [40.0, 10.0, 0.0, 7.0, 90.0, 33.0]
    values = [other + d for other, d in zip(others, differences, strict=True)]
    found = compared(values, others, 0)
    assert found["estimate"] == pytest.approx(sum(differences) / 6)
    assert_exact(found["ci95"], 6, lambda items: sum(differences[i] for i in items) / 6)


def test_the_median_of_differences_has_the_interval_of_all_their_resamples():
    """It is not the difference of the medians, which is 10 here."""
    differences = [-1.0, 2.0, 3.0, 5.0, 60.0]
    others = [50.0, 20.0, 10.0, 40.0, 30.0]
    values = [other + d for other, d in zip(others, differences, strict=True)]
    found = compared(values, others, 0, "median")
    assert found["estimate"] == 3
    assert np.median(values) - np.median(others) != 3
    assert_exact(found["ci95"], 5, lambda items: sorted(differences[i] for i in items)[2])


def test_many_differences_have_the_normal_interval_and_pairing_narrows_it():
    rng = np.random.default_rng(2)
    hard = rng.normal(50, 20, 500)
    ours, theirs = hard + rng.normal(2, 3, 500), hard + rng.normal(0, 3, 500)
    found = compared(list(ours), list(theirs), 0)
    differences = ours - theirs
    half = 1.96 * differences.std() / math.sqrt(500)
    assert found["estimate"] == pytest.approx(differences.mean())
    assert found["ci95"] == pytest.approx(
        [differences.mean() - half, differences.mean() + half], abs=0.05 * half
    )
    low, high = bootstrap(list(ours), 0)
    assert high - low > 3 * 2 * half


def test_a_difference_is_covered_as_often_as_its_interval_says():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(100):
        others = rng.normal(0, 5, 40)
        low, high = compared(list(others + rng.exponential(1, 40)), list(others), seed)["ci95"]
        hits += low <= 1 <= high
    assert 87 <= hits <= 99  # a percentile interval over 40 skewed values holds in about 93%


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_swapping_the_two_swaps_the_signs(statistic):
    rng = np.random.default_rng(4)
    one, other = list(rng.normal(size=31)), list(rng.normal(size=31))
    forth, back = compared(one, other, 7, statistic), compared(other, one, 7, statistic)
    assert back["estimate"] == -forth["estimate"]
    assert back["ci95"] == pytest.approx([-end for end in reversed(forth["ci95"])])


def test_every_comparison_draws_the_same_items():
    """Differences twice as large have exactly twice the interval."""
    rng = np.random.default_rng(5)
    values, zeros = rng.integers(-9, 9, 30).astype(float), np.zeros(30)
    once, twice = compared(list(values), list(zeros), 3), compared(list(2 * values), list(zeros), 3)
    assert twice["ci95"] == [2 * end for end in once["ci95"]]


def test_comparisons_repeat_digit_for_digit():
    rng = np.random.default_rng(6)
    one, other = list(rng.random(50)), list(rng.random(50))
    assert compared(one, other, 1) == compared(one, other, 1)
    assert compared(one, other, 1) != compared(one, other, 2)
    assert ratio(one, other, 1) == ratio(one, other, 1)
    assert ratio(one, other, 1) != ratio(one, other, 2)


@pytest.mark.parametrize("compare", [per_item, ratio])
@pytest.mark.parametrize(("one", "other"), [([], []), ([1.0, 2.0], [1.0])])
def test_what_is_not_paired_is_refused(compare, one, other):
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(one, other, 0)


def test_a_ratio_has_the_interval_of_the_delta_method():
    rng = np.random.default_rng(7)
    below = rng.uniform(20, 100, 600)
    above = 0.8 * below + rng.normal(0, 10, 600)
    found = ratio(list(above), list(below), seed=0)
    estimate = above.mean() / below.mean()
    half = 1.96 * (above - estimate * below).std() / math.sqrt(600) / below.mean()
    assert found["estimate"] == pytest.approx(estimate)
    assert found["ci95"] == pytest.approx([estimate - half, estimate + half], abs=0.06 * half)


def test_a_constant_ratio_has_no_width_however_the_items_vary():
    below = [3.0, 80.0, 1.0, 25.0]
    found = ratio([2 * value for value in below], below, 0)
    assert found == {"estimate": 2.0, "ci95": [2.0, 2.0]}


def test_few_items_have_the_ratio_interval_of_all_their_resamples():
    above, below = [1.0, 8.0, 4.0, 9.0, 5.0], [2.0, 9.0, 7.0, 3.0, 5.0]
    found = ratio(above, below, 0)
    assert found["estimate"] == pytest.approx(27 / 26)
    assert_exact(
        found["ci95"],
        5,
        lambda items: sum(above[i] for i in items) / sum(below[i] for i in items),
        jumps=False,
    )


def test_a_ratio_to_nothing_is_none():
    assert ratio([0.0, 5.0], [0.0, 0.0], 0) == {"estimate": None, "ci95": None}


@pytest.mark.parametrize(
    ("above", "right", "low", "high"),
    [
        # (1 - 1/12)^12 = 35% of the resamples miss the one right answer.
        ([0.0] * 11 + [100.0], 1, None, None),  # and then are 0 / 0: they bound nothing
        ([100.0] * 12, 1, 4.0, None),  # and then are infinite; 7% draw it 3 times or more, 1.5% 4
        ([100.0] * 12, 12, 1.0, 1.0),
        ([0.0] * 12, 6, 0.0, 0.0),  # a resample without any of six: 0.02%, of no account
    ],
)
def test_resamples_without_a_denominator_widen_the_interval(above, right, low, high):
    found = ratio(above, [0.0] * (12 - right) + [100.0] * right, 0)
    assert found["ci95"] == [low, high]


def test_differences_by_rounding_are_ties():
    ours, theirs = [1.0, 2.0, 3.0, 4.0], [1.0 + 1e-7, 2.0 - 1e-7, 2.5, 4.000001]
    assert per_item(ours, theirs, 1e-6).tolist() == [0, 0, 0.5, pytest.approx(-1e-6)]
    assert per_item(ours, theirs).tolist() == pytest.approx([-1e-7, 1e-7, 0.5, -1e-6])
    assert per_item([1.0], [0.5], 0.5).tolist() == [0]  # the resolution itself is a tie, too
