"""A run's summary, by hand: every figure from its own column, every part from its own item."""

from __future__ import annotations

from statistics import mean, median

import numpy as np
import pytest

from data import datasets
from eval.analysis.stats import bootstrap
from eval.analysis.summary import by_length, summarize
from models.timing import PARTS

HOTPOT = datasets.get("hotpotqa_distractor")
FULL = [1000.0, 1400.0, 900.0, 1300.0, 1250.0]
COLD = [310.0, 350.0, 290.0, 340.0, 330.0]  # the median is item 4's
READY = [205.0, 240.0, 190.0, 200.0, 230.0]  # and item 0's
SCORES = [10.0, 0.0, 50.0, 0.0, 30.0]
FULL_SCORES = [40.0, 0.0, 50.0, 20.0, 40.0]


def parts(i: int, total: float) -> dict[str, float]:
    """Parts that sum to the total, unlike those of any other item."""
    shares = np.arange(1, 1 + len(PARTS)) ** (1 + i / 3)
    return dict(zip(PARTS, (total * shares / shares.sum()).tolist(), strict=True))


def record(i: int, **changes) -> dict:
    return {
        "id": f"q{i}",
        "tokens": 1000 + 10 * i**2,
        "length": 100,
        "score": SCORES[i],
        "full_score": FULL_SCORES[i],
        "extra_scores": {},
        "kl_first": 0.1 * i,
        "kl_mean": 0.01 * i**2,
        "top1_agreement": 1 - 0.1 * i,
        "delta_kv": [0.1 * i, 1.0],
        "delta_attn": [0.2 * i, 2.0],
        "ttft_ms": {"cold": COLD[i], "ready": READY[i]},
        "ttft_parts_ms": parts(i, COLD[i]),
        "ttft_parts_ready_ms": parts(i, READY[i]),
        "full_prefill_ms": FULL[i],
        "load_ms": 5.0 + i**2,
        "answer_kept": i < 2,
        "flop_limit": 6.0 + i**2,
        "tpot_ms": 20.0 + i**2,
        "tpot_parts_ms": {"step": 15.0 + i**2, "evict": 5.0},
        "evict_ms": 30.0 + i**2,
        "kv_bytes": 1000 * (i + 1),
        **changes,
    }


def summary(count: int = 5, **changes) -> dict:
    return summarize([record(i, **changes) for i in range(count)], HOTPOT, 3)


def test_speed_ups_are_the_full_prefills_median_over_the_methods():
    found = summary()
    assert found["full_prefill_ms"]["median"] == median(FULL) == 1250
    assert found["ttft_ms"]["cold"]["median"] == 330
    assert found["ttft_ms"]["ready"]["median"] == 205
    assert found["speedup"] == {
        "cold": pytest.approx(1250 / 330),
        "ready": pytest.approx(1250 / 205),
    }
    # Not the ratio of the means, nor the median of the items' own ratios.
    assert found["speedup"]["ready"] != pytest.approx(mean(FULL) / mean(READY), rel=0.01)
    own = [full / ready for full, ready in zip(FULL, READY, strict=True)]
    assert found["speedup"]["ready"] != pytest.approx(median(own), rel=0.01)


@pytest.mark.parametrize(("when", "times"), [("cold", COLD), ("ready", READY)])
def test_the_95th_percentile_is_near_the_slowest(when, times):
    """Of five values it lies four fifths of the way from the fourth to the last."""
    *_, fourth, last = sorted(times)
    found = summary()["ttft_ms"][when]
    assert found["p95"] == pytest.approx(fourth + 0.8 * (last - fourth))
    assert found["ci95"] == list(bootstrap(times, 3, "median"))
    assert found["ci95"][0] < found["median"] < found["ci95"][1]


def test_parts_are_those_of_the_item_in_the_middle():
    found = summary()
    assert found["ttft_parts_ms"] == pytest.approx(parts(4, 330))
    assert found["ttft_parts_ready_ms"] == pytest.approx(parts(0, 205))
    assert sum(found["ttft_parts_ms"].values()) == pytest.approx(330)
    assert sum(found["ttft_parts_ready_ms"].values()) == pytest.approx(205)


def test_parts_of_two_items_in_the_middle_are_their_mean():
    """Of four, cold: items 0 and 3; ready: items 3 and 0."""
    found = summary(4)
    middle = {p: (parts(0, 310)[p] + parts(3, 340)[p]) / 2 for p in PARTS}
    assert found["ttft_parts_ms"] == pytest.approx(middle)
    assert sum(found["ttft_parts_ms"].values()) == pytest.approx(found["ttft_ms"]["cold"]["median"])
    ready = {p: (parts(0, 205)[p] + parts(3, 200)[p]) / 2 for p in PARTS}
    assert found["ttft_parts_ready_ms"] == pytest.approx(ready)


def test_retention_is_the_methods_score_over_the_full_prefills():
    found = summary()
    assert found["score"] == 18
    assert found["full_score"] == 30
    assert found["retention"] == pytest.approx(0.6)
    low, high = found["retention_ci95"]
    assert low < 0.6 < high
    assert high <= 1  # no item has more than the full prefill


def test_medians_of_what_is_timed_and_means_of_what_is_scored():
    found = summary()
    squares = [0, 1, 4, 9, 16]
    assert found["load_ms"] == 5 + median(squares)
    assert found["answers_kept"] == 2
    assert found["flop_limit"] == 6 + median(squares)
    assert found["tpot_ms"] == {"median": 20 + median(squares)}
    assert found["tokens"] == {"median": 1040, "max": 1160}
    assert found["select_ms"] == pytest.approx(
        median(parts(i, READY[i])["select"] for i in range(5))
    )
    assert found["kl_first"] == pytest.approx(0.2)
    assert found["kl_mean"] == pytest.approx(0.01 * mean(squares))
    assert found["top1_agreement"] == pytest.approx(0.8)
    assert found["delta_kv"] == pytest.approx([0.2, 1.0])
    assert found["delta_attn"] == pytest.approx([0.4, 2.0])
    assert found["kl_mean_ci95"] == list(bootstrap([0.01 * s for s in squares], 3))
    assert found["score_ci95"] == list(bootstrap(SCORES, 3))
    assert (found["n"], found["metric"]) == (5, "qa_f1")
    assert found["score_by_length"] is None


def test_readings_are_summarised_by_their_medians():
    each = [{"bytes_per_s": 10.0 * i or None, "visible": i / 10, "read_ms": 7.0} for i in range(4)]
    records = [record(i, reading=reading) for i, reading in enumerate(each)]
    found = summarize([*records, record(4)], datasets.get("2wikimqa"), 0)["reading"]
    assert found == {"bytes_per_s": 20.0, "visible": pytest.approx(0.15), "read_ms": 7.0}
    assert summary()["reading"] is None


def test_what_was_not_measured_has_no_figure():
    found = summary(ttft_ms={"cold": None, "ready": None}, tpot_ms=None, load_ms=None)
    assert found["ttft_ms"] == found["speedup"] == {"cold": None, "ready": None}
    assert found["ttft_parts_ms"] is found["ttft_parts_ready_ms"] is found["load_ms"] is None
    assert found["tpot_ms"] == {"median": None}
    one = [record(i) for i in range(5)]
    one[2]["ttft_ms"] = {"cold": None, "ready": 190.0}  # of one item only
    one[3]["delta_kv"] = None
    found = summarize(one, HOTPOT, 0)
    assert found["speedup"]["cold"] is found["ttft_ms"]["cold"] is found["ttft_parts_ms"] is None
    assert found["speedup"]["ready"] == pytest.approx(1250 / 205)
    assert found["delta_kv"] is None
    assert found["delta_attn"] == pytest.approx([0.4, 2.0])


def test_tpot_is_known_where_some_items_answered_one_token():
    found = summarize(
        [record(i, tpot_ms=None if i == 0 else 20.0 + i**2) for i in range(5)], HOTPOT, 0
    )
    assert found["tpot_ms"]["median"] == 20 + (4 + 9) / 2


def test_further_scores():
    needle = datasets.get("needle")
    records = [record(i, extra_scores={"rougeL": 10.0 * i}) for i in range(5)]
    assert summarize(records, needle, 0)["extra_scores"] == {"rougeL": 20}


def test_longbench_e_is_broken_down_by_words_as_its_own_script_does():
    """eval.py of LongBench: length < 4000, < 8000, else."""
    lengths = [0, 3999, 4000, 7999, 8000, 30000]
    records = [
        {"length": n, "score": s} for n, s in zip(lengths, [1, 3, 10, 20, 7, 9], strict=True)
    ]
    assert by_length(records) == {"0-4k": 2, "4-8k": 15, "8k+": 8}
    extended = datasets.get("hotpotqa_e")
    found = summarize([record(i, length=n) for i, n in enumerate(lengths[:5])], extended, 0)
    assert found["score_by_length"] == {"0-4k": 5, "4-8k": 25, "8k+": 30}


def test_parts_of_a_tpot_are_those_of_the_median_item():
    found = summary()
    total = found["tpot_ms"]["median"]
    assert sum(found["tpot_parts_ms"].values()) == pytest.approx(total)
    assert found["tpot_parts_ms"]["evict"] == 5.0
    assert found["evict_ms"] == 30 + median(i**2 for i in range(5))
    assert found["kv_bytes"] == {"median": 3000.0, "max": 5000}
    none = summary(tpot_ms=None, tpot_parts_ms=None, evict_ms=None)
    assert none["tpot_parts_ms"] is None
    assert none["evict_ms"] is None
