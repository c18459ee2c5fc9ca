"""Intervals and medians, against cases whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.stats import bootstrap, middle, spread


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
