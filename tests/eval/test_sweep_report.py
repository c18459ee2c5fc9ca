"""A sweep's figures, table and alarms, on results made by hand."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from eval.analysis.alarms import alarms
from eval.analysis.compare import differences
from eval.analysis.overlap import matrices
from eval.analysis.significance import sign_flip
from eval.analysis.stats import bootstrap, paired, ratio, spread
from eval.report.grid import SHOWN, content, table, text

N = 10
FULL = [100.0, 0.0] * 5


def result(method, rate=None, kl=0.2, *, score=40.0, oracle=False, note=None, first=None):
    kls = list(kl) if isinstance(kl, list) else [kl] * N
    firsts = kls if first is None else [first] * N
    scores = [score + i for i in range(N)]
    times = [100.0 + i for i in range(N)]
    share = ratio(scores, FULL, 0)
    chosen = np.arange(20) < round(20 * (rate or 0))
    return {
        "note": note,
        "config": {
            "model": "tiny",
            "dataset": "questions",
            "dtype": "float32",
            "backend": "blocked",
            "seed": 0,
            "method": method,
            "options": {} if rate is None else {"rate": rate, "check_layer": 1},
        },
        "environment": {"device": "a processor", "threads": 2},
        "inputs": {"available": 7405},
        "n": N,
        "metric": "qa_f1",
        "oracle": oracle,
        "score": float(np.mean(scores)),
        "score_ci95": list(bootstrap(scores, 0)),
        "full_score": 50.0,
        "retention": share["estimate"],
        "retention_ci95": share["ci95"],
        "suite": "bench",
        "group": "reading",
        "score_by_length": None,
        "delta_kv": [0.1, 1.0] if oracle else None,
        "delta_attn": None,
        "kl_first": float(np.mean(firsts)),
        "kl_first_ci95": list(bootstrap(firsts, 0)),
        "kl_mean": float(np.mean(kls)),
        "kl_mean_ci95": list(bootstrap(kls, 0)),
        "top1_agreement": 0.875,
        "top1_agreement_ci95": [0.8, 0.9],
        "ttft_ms": {"cold": None, "ready": None if oracle else spread(times, 0)},
        "select_ms": None if rate is None or oracle else 7.25,
        "full_prefill_ms": spread([500.0] * N, 0),
        "speedup": {"cold": None, "ready": None if oracle else 4.785},
        "flop_limit": 6.5,
        "tokens": {"median": 1597.0, "max": 2000},
        "items": [
            {
                "id": f"q{i}",
                "score": scores[i],
                "full_score": FULL[i],
                "kl_first": firsts[i],
                "kl_mean": kls[i],
                "top1_agreement": 0.875,
                "ttft_ms": {"ready": None if oracle else times[i], "cold": None},
                "full_prefill_ms": 500.0,
                "selected": base64.b64encode(np.packbits(chosen, bitorder="little")).decode(),
                "documents": 20,
            }
            for i in range(N)
        ],
    }


def sweep(**extra):
    return [
        result("no", None, 0.0, score=50.0, **extra),
        result("full", None, 0.6, **extra),
        *(result("random", r, 0.5 - r / 2, **extra) for r in (0.1, 0.5, 1.0)),
        *(result("debug", r, 0.3 - 0.3 * r, score=45.0, **extra) for r in (0.1, 0.5, 1.0)),
        result("oracle_kv", 0.5, 0.01, oracle=True, **extra),
    ]


@pytest.fixture(scope="module")
def swept() -> dict:
    """Contents for tests that only read them."""
    return content(sweep(), 0, load_ms=12.5)


def steps(*curve, **extra):
    return alarms([result("debug", r, kl, **extra) for r, kl in curve], seed=0)


def test_a_falling_distance_raises_no_alarm():
    assert steps((0.0, 0.4), (0.1, 0.3), (0.5, 0.01), (1.0, 0.0)) == []
    assert alarms(sweep(), 0) == []


def test_a_rise_beyond_the_noise_is_named():
    found = steps((0.05, 0.4), (0.1, 0.41), (1.0, 0.0), first=0.0)
    assert [(a["method"], a["measure"], a["rates"]) for a in found] == [
        ("debug", "kl_mean", [0.05, 0.1])
    ]
    assert found[0]["values"] == pytest.approx([0.4, 0.41])
    assert found[0]["beyond_noise"]
    assert found[0]["line"] == (
        "ALARM: debug: KL along the answer does not fall from rate 0.05 (0.4000) to 0.1 (0.4100), "
        "beyond the noise of 10 items"
    )


def test_a_rise_within_the_noise_says_so():
    before = [0.1 * i for i in range(N)]
    after = [0.1 * i for i in reversed(range(N))]
    after[0] += 0.01
    (alarm,) = steps((0.1, before), (0.2, after), first=0.0)
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    assert alarm["difference"].items() >= paired(gaps, 0).items()
    assert alarm["difference"]["ci95"][0] < 0 < alarm["difference"]["ci95"][1]
    assert alarm["difference"]["p"] == sign_flip(np.array([gaps]), 0)[0]
    assert not alarm["beyond_noise"]
    assert "within the noise of 10 items" in alarm["line"]


def test_a_rise_of_a_few_items_is_within_the_noise():
    """4 items of 10 are further away, 6 stand still: the interval leaves 0 out, p is 2/16."""
    after = [0.3] * 6 + [0.4] * 4
    (alarm,) = steps((0.1, 0.3), (0.2, after), first=0.0)
    assert alarm["difference"]["ci95"][0] > 0
    assert alarm["difference"]["p"] == 0.125
    assert not alarm["beyond_noise"]


def test_alarms_allow_for_all_steps_that_were_looked_at():
    """One of two methods rises, by all ten items; both distances of both make four steps."""
    runs = [result("a", 0.1, 0.3), result("a", 0.2, 0.4)]
    runs += [result("b", 0.1, 0.3), result("b", 0.2, 0.2)]
    found = alarms(runs, 0)
    assert [(a["method"], a["difference"]["p"]) for a in found] == [("a", 2 / 2**10)] * 2
    wanted = pytest.approx(4 * 2 / 2**10)
    assert [a["difference"]["p_holm"] for a in found] == [wanted] * 2
    assert all(a["beyond_noise"] for a in found)


def test_six_rises_of_so_many_steps_are_within_the_noise():
    """Six items of one side are p = 2/64 alone; as one of ten steps that is no claim."""
    curve = [(0.1 * i, [0.3] * N) for i in range(6)]
    curve[-1] = (0.5, [0.3] * 4 + [0.4] * 6)
    (alarm,) = [a for a in steps(*curve, first=0.0) if a["values"][1] > 0.31]
    assert alarm["difference"]["p"] == 2 / 2**6
    assert alarm["difference"]["p_holm"] == pytest.approx(10 * 2 / 2**6)
    assert not alarm["beyond_noise"]


def test_rates_are_taken_in_rising_order():
    assert steps((1.0, 0.0), (0.1, 0.4), (0.5, 0.2)) == []
    assert len(steps((0.5, 0.4), (0.1, 0.2))) == 2  # both distances


@pytest.mark.parametrize("last", [0.0, 1e-9])
def test_what_has_reached_zero_cannot_fall(last):
    assert steps((0.5, 0.0), (0.9, 0.0), (1.0, last)) == []


def test_standing_still_is_not_falling():
    first, along = (steps((0.1, 0.3), (0.2, 0.3))[i] for i in (1, 0))
    assert (along["measure"], first["measure"]) == ("kl_mean", "kl_first")
    assert "KL of the first token" in first["line"]
    assert not along["beyond_noise"]


def test_each_method_has_its_own_curve():
    runs = [
        result("a", 0.1, 0.1),
        result("b", 0.2, 0.5),
        result("full", None, 0.9),
        result("b", 0.4, 0.6),
        result("oracle_kv", 0.1, 0.2, oracle=True),
        result("oracle_kv", 0.2, 0.3, oracle=True),
    ]
    found = [(a["method"], *a["rates"]) for a in alarms(runs, 0) if a["measure"] == "kl_mean"]
    assert found == [("b", 0.2, 0.4), ("oracle_kv", 0.1, 0.2)]


def test_the_content():
    results = sweep()
    found = content(results, 3, load_ms=12.5, folders=[f"run{i}" for i in range(len(results))])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == content(results, 3, 12.5, [f"run{i}" for i in range(len(results))])
    assert found["config"] == {
        "model": "tiny",
        "dataset": "questions",
        "dtype": "float32",
        "backend": "blocked",
        "seed": 0,
    }
    assert found["methods"] == ["no", "full", "random", "debug", "oracle_kv"]
    assert found["rates"] == [0.1, 0.5, 1.0]
    assert (found["n"], found["available"], found["load_ms"], found["seed"]) == (10, 7405, 12.5, 3)
    compared = differences(results, 3, SHOWN, rateless=False)
    assert found["differences"] == compared.rows
    assert found["comparisons"] == compared.family == 3 * 2 + 2  # three rates, and the oracle's
    debugs = [row["to"]["random"] for row in found["differences"] if row["method"] == "debug"]
    for of_one in debugs:
        assert of_one["kl_first"]["p_holm"] is None
        assert of_one["score"]["p_holm"] is not None
    assert found["overlaps"] == matrices(results)
    assert found["alarms"] == []
    debug = found["rows"][5]
    assert (debug["method"], debug["rate"], debug["folder"]) == ("debug", 0.1, "run5")
    for key in (
        *("score", "score_ci95", "retention", "retention_ci95", "kl_first", "kl_first_ci95"),
        *("kl_mean", "kl_mean_ci95", "top1_agreement", "top1_agreement_ci95", "select_ms"),
    ):
        assert debug[key] == results[5][key]
    assert debug["ttft_ready_ms"]["median"] == 104.5
    assert debug["speedup_ready"] == 4.785
    assert debug["delta_kv"] is None
    assert debug["delta_attn"] is None


def test_an_oracle_has_no_times_but_deviations(swept):
    oracle = swept["rows"][-1]
    for key in ("ttft_ready_ms", "select_ms", "speedup_ready", "flop_limit", "folder"):
        assert oracle[key] is None
    assert oracle["oracle"]
    assert oracle["delta_kv"] == pytest.approx([0.1, 1.0])


def test_what_the_runs_differ_in_is_not_common():
    for odd in range(2):
        results = [result("debug", 0.1), result("debug", 0.5)]
        results[odd]["config"]["extra"] = 1
        assert "extra" not in content(results, 0)["config"]


def test_the_table(swept):
    shown = table(swept)
    assert shown.startswith(
        "tiny on questions: 10 of 7405 items, 1597 tokens in the median; float32, blocked "
        "attention, a processor, 2 threads\nfull prefill: 500 ms TTFT in the median, qa_f1 50.0; "
        "12 ms to read KVs from disk\n\nmethod"
    )
    rows = [re.split(r"\s{2,}", line) for line in shown.splitlines()[4:13]]
    low, high = bootstrap([45.0 + i for i in range(N)], 0)
    assert rows[5] == [
        *("debug", "0.1", "4.79x", "6.50x", "104", "7.2", "0.270", "0.270", "87.5"),
        *("49.5", f"{low:.1f} to {high:.1f}", "99", "better 0.016", "better 0.016"),
    ]
    assert rows[7][-2:] == ["~ 1.000", "better 0.016"]
    assert "corrected for the 8 comparisons of this table" in " ".join(shown.split())
    assert "too few" not in shown
    assert rows[8][:6] == ["oracle_kv*", "0.5", "-", "-", "-", "-"]
    assert [row[0] for row in rows[:2]] == ["no", "full"]
    assert rows[1][1] == "4.79x"  # no rate, and below no comparison with a control
    assert rows[1][-1] == rows[2][-1] == "89"
    assert "* oracle" in shown
    assert max(map(len, shown.splitlines())) <= 150


def test_the_table_without_load_control_oracle_and_denominator():
    runs = [result("debug", 0.1), result("blend", 0.1)]
    for run in runs:
        run["retention"] = run["retention_ci95"] = None
        for item in run["items"]:
            item["full_score"] = 0.0
    shown = table(content(runs, 0))
    assert "disk" not in shown
    assert "* oracle" not in shown
    assert shown.splitlines()[4].endswith("-")


def test_a_built_in_sample_is_named_first():
    note = "BUILT-IN SAMPLE, NOT THE BENCHMARK"
    assert table(content([result("debug", 0.1, note=note)], 0)).startswith(f"*** {note} ***\n\n")


def test_the_table_of_a_saved_sweep_is_the_same(swept):
    assert text(json.loads(json.dumps(swept))) == text(swept)


def test_the_text_ends_with_the_alarms(swept):
    runs = [*sweep()[2:4], result("blend", 0.1, 0.1), result("blend", 0.5, 0.2)]
    lines = text(content(runs, 0)).splitlines()
    assert [line.split(":")[:2] for line in lines[-2:]] == [["ALARM", " blend"]] * 2
    assert "overlap % at 0.1" in "\n".join(lines)
    assert "ALARM" not in text(swept)
