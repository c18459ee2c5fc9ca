"""A budget shared out in whole tokens, by properties."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from models.selectors.shares import largest_remainder


@pytest.mark.parametrize(
    ("lengths", "total", "shares"),
    [
        ([30, 1, 24], 8, [4, 0, 4]),  # quotas 4.36, 0.15, 3.49: the odd one to the largest part
        ([1, 1, 1], 2, [1, 1, 0]),  # ties to the earlier
        ([2, 2, 2, 2], 3, [1, 1, 1, 0]),
        ([10, 0, 10], 5, [3, 0, 2]),
        ([7], 5, [5]),
        ([0, 0], 0, [0, 0]),
        ([], 0, []),
        ([5, 5], 0, [0, 0]),
        ([5, 3], 8, [5, 3]),
    ],
)
def test_examples(lengths, total, shares):
    assert largest_remainder(lengths, total) == shares


def cases():
    generator = random.Random(1)
    for _ in range(300):
        lengths = [generator.choice([0, 1, 1, 2, 7, 64, 512, 512]) for _ in range(8)]
        lengths = lengths[: generator.randint(1, 8)]
        yield lengths, generator.randint(0, sum(lengths))


def test_the_shares_add_up_and_fit():
    for lengths, total in cases():
        shares = largest_remainder(lengths, total)
        assert sum(shares) == total
        assert all(0 <= share <= length for share, length in zip(shares, lengths, strict=True))


def test_no_share_is_a_whole_token_off():
    for lengths, total in cases():
        if sum(lengths):
            quotas = [Fraction(length * total, sum(lengths)) for length in lengths]
            shares = largest_remainder(lengths, total)
            assert all(abs(s - q) < 1 for s, q in zip(shares, quotas, strict=True))


def test_the_odd_tokens_go_to_the_largest_remainders_then_to_the_earlier():
    for lengths, total in cases():
        if not sum(lengths):
            continue
        shares = largest_remainder(lengths, total)
        quotas = [Fraction(length * total, sum(lengths)) for length in lengths]
        parts = [quota - int(quota) for quota in quotas]
        rounded_up = [s > int(q) for s, q in zip(shares, quotas, strict=True)]
        for i, up in enumerate(rounded_up):
            for j, other in enumerate(rounded_up):
                if up and not other:
                    assert (parts[i], -i) > (parts[j], -j)


def test_sizes_beyond_exact_floating_point():
    huge = 10**17
    assert largest_remainder([huge, huge + 1], huge) == [huge // 2, huge // 2]
    assert sum(largest_remainder([huge + 1, 3, huge], huge + 7)) == huge + 7
