"""Where the seconds of an evaluation went."""

from __future__ import annotations

import pytest

from stage import ledger
from stage.ledger import PARTS, Ledger, line


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(ledger.time, "perf_counter", lambda: now[0])
    return now


def test_every_second_is_somewhere(clock):
    book = Ledger()
    for part, seconds in (("prefill", 3.0), ("decode", 2.0), ("prefill", 1.0)):
        with book.charge(part):
            clock[0] += seconds
        clock[0] += 0.5
    book.items = 2
    found = book.throughput()
    assert found["wall_s"] == 7.5
    assert found["items_per_hour"] == 3600 * 2 / 7.5
    wanted = {"prefill": 2.0, "decode": 1.0, "follow": 0, "load": 0, "score": 0, "other": 0.75}
    assert found["seconds_per_item"] == wanted
    assert sum(found["seconds_per_item"].values()) * 2 == found["wall_s"]
    assert list(found["seconds_per_item"]) == list(PARTS)
    told = "2 items in 8 s, 960 an hour: prefill 53%, decode 27%, other 20%"
    assert line(found) == told


def test_a_block_that_fails_is_charged_too(clock):
    book = Ledger()

    def fail():
        with book.charge("follow"):
            clock[0] += 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert book.seconds["follow"] == 2.0


def test_before_the_first_item_nothing_is_divided_by_zero(clock):
    found = Ledger().throughput()
    assert found["items_per_hour"] == 0.0
    assert set(found["seconds_per_item"].values()) == {0.0}
    assert line(found).startswith("0 items in 0 s, 0 an hour")
