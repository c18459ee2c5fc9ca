"""The table over datasets: averages by hand, samples marked, LongBench-E's lengths."""

import re

from eval.analysis.summary import by_length
from eval.report import overview
from eval.report.figures import SCORED


def result(dataset, suite, group, method, score, kl, speedup, *, note=None, lengths=None, n=2):
    options = {} if method == "no" else {"rate": 0.15}
    return {
        "config": {
            "model": "m",
            "dataset": dataset,
            "dtype": "float32",
            "backend": "blocked",
            "method": method,
            "options": options,
        },
        "environment": {"device": "cpu", "threads": 2},
        "inputs": {"available": 200},
        "oracle": False,
        "suite": suite,
        "group": group,
        "metric": "qa_f1",
        "n": n,
        "note": note,
        "score": score,
        "full_score": score if method == "no" else 0.0,
        "kl_first": kl,
        "speedup": {"cold": None, "ready": speedup},
        "score_by_length": lengths,
        "ttft_ms": {"cold": None, "ready": {"median": 10.0, "ci95": [9.0, 11.0]}},
        "full_prefill_ms": {"median": 40.0, "ci95": [39.0, 41.0]},
        "tokens": {"median": 1000.0, "max": 1200},
        **dict.fromkeys(("select_ms", "flop_limit", "delta_kv", "delta_attn", "retention")),
        **dict.fromkeys(("kl_mean", "top1_agreement"), 0.5),
        **{f"{name}_ci95": [0.0, 1.0] for name in SCORED},
    }


def numbers(text: str, label: str) -> list[float]:
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return [float(x) for x in re.findall(r"-?\d+\.\d+", line)]


def test_averages_weigh_datasets_alike():
    def pair(dataset, group, scores, **extra):
        return [
            result(dataset, "bench", group, "no", scores[0], 0.0, 1.0, **extra),
            result(dataset, "bench", group, "debug", scores[1], 0.2, 4.0, **extra),
        ]

    text = overview.table(
        [
            pair("a", "reading", (10.0, 20.0), n=100),
            pair("b", "reading", (30.0, 60.0)),
            pair("c", "code", (50.0, 10.0), note="a sample"),
        ]
    )
    assert numbers(text, "= reading") == [20.0, 20.0, 0.0, 1.0, 40.0, 0.2, 4.0]
    assert numbers(text, "== bench") == [30.0, 30.0, 0.0, 1.0, 30.0, 0.2, 4.0]
    assert numbers(text, "c*") == [50.0, 50.0, 0.0, 1.0, 10.0, 0.2, 4.0]
    assert "debug 0.15" in text
    assert "marked *: 1 ran on BUILT-IN SAMPLES" in text
    assert "= code" not in text  # one dataset needs no average


def test_benchmarks_are_averaged_each_by_itself():
    text = overview.table(
        [
            [result(name, suite, group, "debug", score, 0.2, 4.0)]
            for name, suite, group, score in [
                ("a", "bench", "reading", 10.0),
                ("b", "bench", "code", 30.0),
                ("c", "other", "reading", 70.0),
                ("d", "other", "reading", 90.0),
            ]
        ]
    )
    assert numbers(text, "== bench") == [0.0, 20.0, 0.2, 4.0]
    assert numbers(text, "== other") == [0.0, 80.0, 0.2, 4.0]
    assert numbers(text, "= reading") == [0.0, 80.0, 0.2, 4.0]  # not a: it is of the other bench
    places = [line.split()[0] for line in text.splitlines()[4:] if line]
    assert places[:7] == ["a", "b", "==", "c", "d", "=", "=="]


def test_own_files_are_no_benchmark():
    own = [[result(name, "", "", "debug", 10.0, 0.2, 4.0)] for name in ("mine", "yours")]
    bench = [[result(name, "bench", "", "debug", 10.0, 0.2, 4.0)] for name in ("a", "b")]
    text = overview.table([*own, *bench])
    places = [line.split()[0] for line in text.splitlines()[4:] if line]
    assert places[:5] == ["mine", "yours", "a", "b", "=="]
    assert numbers(text, "== bench") == [0.0, 10.0, 0.2, 4.0]


def test_what_one_dataset_lacks_has_no_average():
    text = overview.table(
        [
            [result(name, "bench", "reading", "oracle_kv", 10.0, 0.2, speedup)]
            for name, speedup in [("a", 4.0), ("b", None)]
        ]
    )
    assert numbers(text, "= reading") == [0.0, 10.0, 0.2]
    assert numbers(text, "b ") == [0.0, 10.0, 0.2]


def test_methods_stand_above_their_columns():
    names = ["no", "debug:check=cached,per_head=1", "full"]
    text = overview.table(
        [
            [
                result("a", "bench", "reading", name, 10.0 * i, 0.2, 4.0)
                for i, name in enumerate(names)
            ]
        ]
    )
    title, head, line = text.splitlines()[2:5]
    for name, score in zip(names, ("0.0", "10.0", "20.0"), strict=True):
        first = title.index(name)
        nearest = min(
            (i for i in range(len(head)) if head.startswith("score", i)),
            key=lambda i: abs(i - first - len(name) // 2),
        )
        assert line[: nearest + len("score")].endswith(f" {score}")


def test_longbench_e_is_broken_down_by_words():
    records = [
        {"length": length, "score": score}
        for length, score in [(10, 1.0), (3999, 3.0), (4000, 10.0), (8000, 7.0), (20000, 9.0)]
    ]
    assert by_length(records) == {"0-4k": 2.0, "4-8k": 10.0, "8k+": 8.0}
    short = by_length(records[:1])
    assert short == {"0-4k": 1.0, "4-8k": None, "8k+": None}
    text = overview.table(
        [
            [result("x_e", "longbench-e", "g", "no", 1.0, 0.0, 1.0, lengths=by_length(records))],
            [
                result(
                    "y_e", "longbench-e", "g", "no", 1.0, 0.0, 1.0, lengths=by_length(records[:1])
                )
            ],
        ]
    )
    assert numbers(text, "LongBench-E 0-4k") == [1.5]
    assert numbers(text, "LongBench-E 8k+") == [8.0]
