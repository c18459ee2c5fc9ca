"""Break-even: the closed forms against counting uses one by one, and against a fine grid."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from bench.breakeven import BANDWIDTHS, Point, break_even, points, turns_positive


def random_point(rng: random.Random) -> Point:
    return Point(
        n=rng.randint(100, 9000),
        precompute_ms=rng.uniform(1, 20_000),
        full_ms=rng.uniform(100, 20_000),
        compute_ms=rng.uniform(10, 5_000),
        load_ms=rng.uniform(1, 500),
        kv_bytes=rng.randint(10**6, 10**9),
        layers=rng.choice([1, 4, 30]),
    )


def counted_uses(point: Point, gb_per_s: float | None, limit: int = 3000) -> int | None:
    """Whole uses until precompute and its fused prefills cost no more than full ones."""
    if gb_per_s is None:
        cold = point.compute_ms + point.load_ms
    else:
        cold = pipelined(point.compute_ms, point.kv_bytes / gb_per_s / 1e6, point.layers)
    with_cache, without = point.precompute_ms, 0.0
    for uses in range(1, limit + 1):
        with_cache += cold
        without += point.full_ms
        if with_cache <= without:
            return uses
    return None


def pipelined(compute: float, load: float, layers: int) -> float:
    """A layer computes once it was read and those before it have computed."""
    read = done = 0.0
    for _ in range(layers):
        read += load / layers
        done = max(done, read) + compute / layers
    return done


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("disk", [None, *BANDWIDTHS])
def test_uses_are_those_that_counting_finds(seed, disk):
    point = random_point(random.Random(seed))
    uses = point.uses(disk)
    counted = counted_uses(point, disk)
    if counted is None:
        assert uses > 2999
    else:
        assert counted == max(1, math.ceil(uses - 1e-9))


@pytest.mark.parametrize("seed", range(20))
def test_below_the_slowest_disk_nothing_is_saved(seed):
    point = random_point(random.Random(seed))
    slowest = point.slowest_gb_per_s
    if math.isinf(slowest):
        assert point.full_ms <= point.compute_ms
    else:
        assert point.saving_ms(slowest * 1.01) > 0 > point.saving_ms(slowest * 0.99)
        assert math.isinf(point.uses(slowest * 0.99))


@pytest.mark.parametrize("seed", range(40))
def test_where_gains_turn_positive(seed):
    rng = random.Random(seed)
    lengths = sorted(rng.sample(range(100, 9000), 5))
    gains = [rng.uniform(-10, 10) for _ in lengths]
    grid = np.linspace(lengths[0], lengths[-1], 400_001)
    negative = np.nonzero(np.interp(grid, lengths, np.divide(gains, lengths)) <= 0)[0]
    found = turns_positive(lengths, gains)
    if gains[-1] <= 0:
        assert found is None
    elif not len(negative):
        assert found == lengths[0]
    else:
        assert found == pytest.approx(grid[negative[-1]], abs=0.1)


def test_a_slower_disk_needs_more_uses_and_longer_prompts():
    lengths = [1000, 2000, 4000, 8000]
    series = [
        Point(n, 1.4 * n, n + 2e-4 * n * n, 50 + 0.2 * n, 0.05 * n, 46_080 * n) for n in lengths
    ]
    here, *disks = break_even(series)
    assert here["gb_per_s"] is None
    assert [disk["gb_per_s"] for disk in disks] == list(BANDWIDTHS)
    assert here["cold_ms"] == [50 + 0.2 * n + 0.05 * n for n in lengths]
    for slow, fast in pairwise(disks):
        assert all(a > b for a, b in zip(slow["uses"], fast["uses"], strict=True))
        assert slow["first_use_pays_from_n"] > fast["first_use_pays_from_n"]
        assert slow["faster_from_n"] >= fast["faster_from_n"]
    # 2e-4 n² + 0.75 n − 50 = 1.4 n has its positive root at n = 3325.
    assert here["first_use_pays_from_n"] == pytest.approx(3325, rel=0.01)


def test_a_disk_that_never_pays_has_no_number_of_uses():
    (_, slow, *_) = break_even([Point(1000, 1000, 500, 100, 10, 10**8)])
    assert slow["uses"] == [None]
    assert slow["faster_from_n"] is slow["first_use_pays_from_n"] is None


def test_points_come_from_the_rows_of_one_method_and_rate():
    def row(n, method, rate):
        return {
            "n": n,
            "method": method,
            "rate": rate,
            "full_ms": 9.0 * n,
            "cold_ms": 3.0 * n,
            "load_ms": 1.0 * n,
            "kv_bytes": 7 * n,
            "layers": 30,
        }

    rows = [row(200, "debug", 0.15), row(100, "debug", 0.15), row(200, "debug", 0.5)]
    rows += [row(100, "full", 0.15)]
    assert points(rows, "debug", 0.15, tokens_per_s=500) == [
        Point(100, 200.0, 900.0, 200.0, 100.0, 700, 30),
        Point(200, 400.0, 1800.0, 400.0, 200.0, 1400, 30),
    ]
