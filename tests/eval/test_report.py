"""The tables over runs: every figure under its own name, and what stands above and below."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from eval.report import columns, layout
from eval.report.columns import RUNS, Column
from eval.report.figures import SCORED, name, report
from eval.report.table import compared, details, label, table
from models.timing import PARTS
from stage.ledger import PARTS as SPENT

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def result(method="debug", rate=0.15, *, oracle=False, **changes):
    """Every figure of a run, no two alike; the times and speed-ups of an oracle are not there."""

    def times(middle, p95):
        return {"median": middle, "p95": p95, "ci95": [middle - 1, middle + 1]}

    return {
        "note": None,
        "config": {
            "model": "tiny",
            "dataset": "questions",
            "dtype": "float32",
            "backend": "blocked",
            "seed": 0,
            "method": method,
            "context": None if method == "no" else "sink",
            "options": {} if rate is None else {"rate": rate},
            "inputs": "abc",
            "weights": "def",
            "entry": "0e",
            "max_new_tokens": 8,
            "code": "c0de",
        },
        "environment": {"device": "a processor", "threads": 2, "kvfuse": "0123"},
        "inputs": {"available": 7405},
        "gate": {"checks": [{"name": "r = 1", "distance": 1.2e-5}]},
        "throughput": {
            "items": 10,
            "wall_s": 20.0,
            "items_per_hour": 1800.0,
            "seconds_per_item": dict.fromkeys(SPENT, 0.25) | {"decode": 0.75},
        },
        "memory_mb": {"peak": 900.4, "weights": 500.0, "kv": 30.0, "allowed": 1569.0},
        "suite": "bench",
        "group": "reading",
        "n": 10,
        "metric": "qa_f1",
        "oracle": oracle,
        "full_score": 50.0,
        "answers_kept": 0,
        "score": 41.25,
        "score_by_length": None,
        "extra_scores": {},
        "kl_first": 0.1111,
        "kl_mean": 0.2222,
        "top1_agreement": 0.875,
        "retention": 0.825,
        **{f"{figure}_ci95": [30.04, 52.06] for figure in SCORED},
        "ttft_ms": {
            "cold": None if oracle else times(125.0, 130.0),
            "ready": None if oracle else times(100.0, 103.0),
        },
        "ttft_parts_ms": None if oracle else dict(zip(PARTS, range(10, 18), strict=True)),
        "ttft_parts_ready_ms": None if oracle else dict(zip(PARTS, range(20, 28), strict=True)),
        "select_ms": None if oracle else 7.25,
        "full_prefill_ms": times(500.0, 550.0),
        "speedup": {"cold": None if oracle else 4.0, "ready": None if oracle else 5.0},
        "flop_limit": None if oracle else 6.5,
        "tpot_ms": {"median": 33.3},
        "tokens": {"median": 1597.0, "max": 2000},
        "delta_kv": None,
        "delta_attn": None,
        "items": [],
        **changes,
    }


def cells(text: str, start: str) -> dict[str, str]:
    """A line's cells by the names above them; a cold one by that on its left, too."""
    lines = text.splitlines()
    (head,) = [line for line in lines if line.startswith("method  ")]
    (line,) = [line for line in lines if line.startswith(start)]
    names, found = (re.split(r"\s{2,}", part) for part in (head, line))
    named = [
        f"{left} cold" if column == "(cold)" else column
        for left, column in zip(["", *names], names, strict=False)
    ]
    return dict(zip(named, found, strict=True))


def test_every_figure_stands_under_its_name():
    assert cells(table([result()]), "debug") == {
        "method": "debug 0.15",
        "behind": "sink",
        "speed-up": "5.00x",
        "speed-up cold": "4.00x",
        "limit": "6.50x",
        "TTFT ms": "100",
        "TTFT ms cold": "125",
        "select": "7.2",
        "KL first": "0.111",
        "KL answer": "0.222",
        "agree %": "87.5",
        "score": "41.2",
        "95% interval": "30.0 to 52.1",
        "retention %": "82",
    }


def test_a_correctors_time_has_a_column_where_there_is_a_corrector():
    runs = [result(correct_ms=0.0), result("debug + shift", correct_ms=12.34)]
    names = ("debug 0.15", "debug + shift")
    plain, corrected = (cells(table(runs), name)["correct"] for name in names)
    assert (plain, corrected) == ("0.0", "12.3")
    assert "correct: ms of TTFT that the corrector takes" in " ".join(table(runs).split())
    for alone in (runs[:1], [result()]):  # results of earlier versions have no such figure
        assert "correct" not in table(alone)


def test_what_runs_have_in_common_stands_above():
    text = table([result(), result("blend")])
    assert text.splitlines()[:3] == [
        "tiny on questions: 10 of 7405 items, 1597 tokens in the median; float32, blocked "
        "attention, a processor, 2 threads",
        "full prefill: 500 ms TTFT in the median, qa_f1 50.0",
        "",
    ]
    assert "too few" not in text
    assert "* oracle" not in text
    noted = table([result(note="BUILT-IN SAMPLE")])
    assert noted.startswith("*** BUILT-IN SAMPLE ***\n\ntiny on questions")


def test_an_oracle_is_marked_and_may_not_claim_times():
    times = {"median": 1.0, "p95": 1.0, "ci95": [1.0, 1.0]}
    boast = {"cold": times, "ready": times}  # as an earlier version would have it
    text = table([result("oracle_kv", oracle=True, ttft_ms=boast, speedup={"cold": 9, "ready": 9})])
    shown = cells(text, "oracle_kv 0.15*")
    timed = ("speed-up", "speed-up cold", "limit", "TTFT ms", "TTFT ms cold", "select")
    assert [shown[column] for column in timed] == ["-"] * 6
    assert shown["score"] == "41.2"
    assert text.endswith(layout.ORACLES)


def test_what_is_missing_is_a_dash():
    shown = cells(table([result(retention=None, retention_ci95=None)]), "debug")
    assert shown["retention %"] == "-"
    cold = {"ttft_ms": {"cold": None, "ready": result()["ttft_ms"]["ready"]}}
    shown = cells(table([result(speedup={"cold": None, "ready": 5.0}, **cold)]), "debug")
    assert (shown["speed-up cold"], shown["TTFT ms cold"]) == ("-", "-")
    assert (shown["speed-up"], shown["TTFT ms"]) == ("5.00x", "100")


def test_the_legend_is_that_of_the_columns():
    every = result(correct_ms=1.0, retention_answered=0.91, decision_agreement=0.75)
    every["config"] |= {"drop": "knorm", "codec": "int8"}
    text = " ".join(table([every]).split())
    for column in RUNS:
        assert text.count(column.meaning) >= 1
    assert text.count(columns.DISTANCE) == 1  # of two columns
    assert max(map(len, table([result()]).splitlines()[5:])) <= layout.WIDTH


def test_what_is_answered_and_decided_stands_where_there_is_any():
    some = result(retention_answered=0.91, decision_agreement=0.75)
    shown = cells(table([some]), "debug")
    assert (shown["answered %"], shown["decides %"]) == ("91", "75")
    shown = cells(table([some, result("random")]), "random")
    assert (shown["answered %"], shown["decides %"]) == ("-", "-")
    assert "answered" not in table([result()])
    assert "decides" not in table([result()])


def test_columns_choose_what_is_shown():
    only = [Column("n", ">", lambda row: str(len(row["method"])), "n: letters")]
    text = layout.table(report([result(), result("oracle_kv", oracle=True)]), only, "And so on.")
    assert text.splitlines()[3:] == ["n", "5", "9", "", "n: letters.", "And so on.", layout.ORACLES]


def test_runs_are_named_by_method_and_rate():
    assert label(result("debug:check=cached", 0.3)) == "debug:check=cached 0.3"
    assert label(result("full", None)) == "full"
    assert [name(row) for row in report([result("no", None), result()])["rows"]] == [
        "no",
        "debug 0.15",
    ]


@pytest.mark.parametrize(
    "module",
    sorted(set(re.findall(r"\$\(PY\) -m ([a-z_.]+)", MAKEFILE.read_text())) - {"pip", "venv"}),
)
def test_every_module_that_make_runs_is_there(module):
    found = find_spec(module)
    assert found
    assert not found.submodule_search_locations or find_spec(f"{module}.__main__")


def test_details_say_how_fast_the_disk_was_and_how_much_of_it_showed():
    reading = {"bytes_per_s": 1.2e9, "visible": 0.35, "read_ms": 50.0, "decode_ms": 12.0}
    told = "cold reading: 1200 MB/s, 50.0 ms, 12.0 ms decoding; 35% of the reading was waited for"
    assert told in details(result(reading=reading))
    assert "50.0 ms; 35%" in details(result(reading=reading | {"decode_ms": 0.0}))
    assert "cold reading" not in details(result(reading=None))


def test_one_run_alone_is_compared_with_nothing():
    assert compared([result()]) == table([result()])


def test_details_of_a_run():
    text = details(result(extra_scores={"rouge_l": 12.34}, score_by_length={"0-4k": 9.0}))
    assert text.startswith(table([result()]))
    assert "cold TTFT by part, ms: load 10.0, decode_kv 11.0, transfer 12.0, rotate 13.0" in text
    assert "ready TTFT by part, ms: load 20.0, decode_kv 21.0, transfer 22.0, rotate 23.0" in text
    assert "TTFT p95, ms: cold 130, ready 103, full prefill 550" in text
    assert "TPOT median, ms: 33.3" in text
    assert "peak memory, MB: 900 (weights 500, largest item's KV 30, allowed 1569)" in text
    assert "further scores: rouge_l 12.3, 0-4k words 9.0" in text
    assert "largest distance in logits: r = 1: 1.2e-05" in text
    assert "made by kvfuse 0123 from inputs abc, weights def" in text
    assert "NOT drop" not in text


@pytest.mark.parametrize(("dropped", "warned"), [([True, True], False), ([True, False], True)])
def test_a_cold_time_that_is_not_cold_is_told(dropped, warned):
    items = [{"page_cache_dropped": d} for d in dropped]
    assert ("cold is not cold here" in details(result(items=items))) == warned


def test_details_of_an_oracle_have_no_times():
    text = details(result("oracle_kv", oracle=True, tpot_ms={"median": None}))
    assert "TPOT: not measured" in text
    assert "by part" not in text
    assert "TTFT p95, ms: full prefill 550" in text


def test_what_eviction_leaves_and_takes_stands_beside_runs_without_it():
    found = [
        result(
            "no", None, tpot_ms={"median": 33.3}, evict_ms=0.0, kv_bytes={"median": 2e6, "max": 3e6}
        ),
        result("no + drop=knorm", None, evict_ms=12.5, kv_bytes={"median": 5e5, "max": 6e5}),
    ]
    found[1]["config"]["drop"] = "knorm"
    text = table(found)
    row = cells(text, "no + drop=knorm")
    assert (row["TPOT ms"], row["evict"], row["KV MB"]) == ("33.3", "12.5", "0.5")
    assert cells(text, "no  ")["KV MB"] == "2.0"
    assert "KV MB" not in table(found[:1])
    kept = details(found[1] | {"tpot_parts_ms": {"step": 30.0, "evict": 3.3}})
    assert "TPOT median, ms: 33.3 (step 30.0, evict 3.3)" in kept
    assert "KV after the first token, MB: 0.5, most 0.6" in kept
