"""Comparisons of methods: by hand, and what is missing or proves nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.analysis.compare import differences
from eval.analysis.measures import rates
from eval.analysis.significance import holm, sign_flip, sign_test
from eval.analysis.stats import bootstrap
from eval.report.comparison import SHOWN, table

N = 12
FULL = [100.0, 0.0] * 6


def result(method, rate=None, score=50.0, kl=0.2, ttft=100.0, *, oracle=False, n=N):
    def each(value):
        return list(value) if isinstance(value, list) else [value] * n

    items = [
        {
            "id": f"q{i}",
            "score": s,
            "full_score": FULL[i],
            "kl_first": k / 2,
            "kl_mean": k,
            "ttft_ms": {"ready": None if oracle else t, "cold": None if oracle else 2000 - 7 * t},
            "full_prefill_ms": 1000.0 + i,
        }
        for i, (s, k, t) in enumerate(zip(each(score), each(kl), each(ttft), strict=True))
    ]
    options = {} if rate is None else {"rate": rate}
    return {"config": {"method": method, "options": options}, "oracle": oracle, "items": items}


def to(results, method, at=0.15, shown=SHOWN):
    rows = differences(results, 0, shown).rows
    (row,) = [d for d in rows if d["method"] == method and d["at"] == at]
    return row["to"]


def p_of(differences):
    """The p of one comparison, by the test that is tested by itself."""
    return sign_flip(np.array([differences], float), 0)[0]


def test_by_hand():
    ups = [float(i) for i in range(N)]
    found = to(
        [
            result("no", None, FULL, 0.0, [1000.0 + i for i in range(N)]),
            result("random", 0.15, 40.0, 0.3, 200.0),
            result("debug", 0.15, [40.0 + u for u in ups], 0.1, [200.0 + u**2 for u in ups]),
            result("blend", 0.15, 60.0, 0.05, 150.0),
        ],
        "debug",
    )
    score = found["random"]["score"]
    assert score["other"] == "random"
    assert score["estimate"] == pytest.approx(5.5)
    assert score["ci95"] == pytest.approx(bootstrap(ups, 0))
    assert score["p"] == p_of(ups)
    assert score["verdict"] == "better"
    assert found["random"]["kl_mean"]["estimate"] == pytest.approx(-0.2)
    assert found["random"]["kl_mean"]["verdict"] == "better"
    assert found["random"]["kl_first"]["estimate"] == pytest.approx(-0.1)
    assert found["random"]["kl_first"]["p"] == 2 / 2**12
    assert found["random"]["kl_first"]["p_holm"] is None  # the table does not show it: no claim
    assert found["random"]["kl_first"]["verdict"] is None
    ttft = found["random"]["ttft_ready_ms"]
    assert ttft["estimate"] == np.median(np.square(ups))
    assert ttft["ci95"] == pytest.approx(bootstrap([u**2 for u in ups], 0, "median"))
    assert ttft["p"] == sign_test(np.array([[u**2 for u in ups]]))[0] == 2 / 2**11  # one is tied
    assert ttft["verdict"] is None
    assert found["no"]["score"]["estimate"] == pytest.approx(45.5 - 50)
    assert found["no"]["score"]["verdict"] == "not told apart"
    assert found["no"]["kl_mean"]["estimate"] == pytest.approx(0.1)
    assert found["no"]["ttft_ready_ms"]["estimate"] < 0
    assert found["best"]["kl_mean"]["other"] == "blend"
    assert found["best"]["kl_mean"]["verdict"] == "worse"
    assert found["best"]["score"]["estimate"] == pytest.approx(-14.5)


def test_the_full_prefill_is_in_every_record():
    one = [result("debug", 0.15, 50.0)]
    both = [result("no", None, FULL, 0.0, [1000.0 + i for i in range(N)]), *one]
    assert to(one, "debug") == to(both, "debug")
    assert [d["method"] for d in differences(both, 0, SHOWN).rows] == ["debug"]


def test_the_best_is_chosen_by_measure_and_is_not_compared_with_itself():
    results = [
        result("full", None, 30.0, 0.6, 10.0),
        result("random", 0.15, 40.0, 0.3, 90.0),
        result("a", 0.15, 70.0, 0.2, 100.0),
        result("b", 0.15, 60.0, 0.1, 110.0),
        result("oracle_kv", 0.15, 99.0, 0.01, 1.0, oracle=True),
        result("b", 0.5, 99.0, 0.01, 1.0),
    ]
    best = to(results, "random")["best"]
    assert {name: found["other"] for name, found in best.items()} == {
        "score": "a",
        "kl_first": "b",
        "kl_mean": "b",
        "ttft_ready_ms": "full",
    }
    assert set(to(results, "a")["best"]) == {"kl_first", "kl_mean", "ttft_ready_ms"}
    oracle = to(results, "oracle_kv")
    assert oracle["best"]["score"]["estimate"] == pytest.approx(29)
    assert oracle["best"]["kl_mean"]["verdict"] == "better"
    assert all("ttft_ready_ms" not in found for found in oracle.values())


def test_the_control_is_that_of_the_same_rate():
    results = [
        result(name, rate, kl=kl)
        for name, rate, kl in [
            ("random", 0.1, 0.5),
            ("random", 0.3, 0.2),
            ("debug", 0.1, 0.3),
            ("debug", 0.3, 0.3),
            ("full", None, 0.6),
        ]
    ]
    assert to(results, "debug", 0.1)["random"]["kl_mean"]["verdict"] == "better"
    assert to(results, "debug", 0.3)["random"]["kl_mean"]["verdict"] == "worse"
    assert to(results, "full", 0.1)["random"]["kl_mean"]["estimate"] == pytest.approx(0.1)
    assert to(results, "full", 0.3)["random"]["kl_mean"]["estimate"] == pytest.approx(0.4)


def test_the_control_has_the_same_corrector():
    results = []
    for corrector, kls in (
        ("none", (0.5, 0.3)),
        ("shift", (0.2, 0.25)),
        ("shift:what=keys", (1, 2)),
    ):
        for name, kl in zip(("random", "debug"), kls, strict=True):
            results.append(result(name + f" + {corrector}" * (corrector != "none"), 0.1, kl=kl))
            results[-1]["config"]["corrector"] = corrector
    for method, other, gap in (
        ("debug", "random", -0.2),
        ("debug + shift", "random + shift", 0.05),
        ("debug + shift:what=keys", "random + shift:what=keys", 1.0),
    ):
        found = to(results, method, 0.1)["random"]["kl_mean"]
        assert found["other"] == other
        assert found["estimate"] == pytest.approx(gap)
    alone = to(results[1:], "debug", 0.1)
    assert "random" not in alone


def test_what_is_missing_is_left_out():
    alone = to([result("debug", 0.15)], "debug")
    assert set(alone) == {"no"}
    rateless = differences([result("full"), result("cat", score=10.0)], 0, SHOWN).rows
    assert [(d["method"], d["rate"], d["at"]) for d in rateless] == [
        ("full", None, None),
        ("cat", None, None),
    ]
    assert differences([result("no")], 0, SHOWN) == ([], 0)
    silent = result("debug", 0.15)
    silent["items"][3]["kl_mean"] = None
    found = to([silent, result("random", 0.15)], "debug")
    assert "kl_mean" not in found["random"]
    assert "kl_first" in found["random"]


def test_options_of_the_control_do_not_hide_it():
    found = to(
        [result("random:seed=3", 0.15), result("debug:check=cached", 0.15)], "debug:check=cached"
    )
    assert found["random"]["score"]["other"] == "random:seed=3"


def test_rounding_at_full_recomputation_is_no_win():
    results = [result("random", 1, kl=3e-9), result("debug", 1, kl=1e-9)]
    assert to(results, "debug", 1)["random"]["kl_mean"]["verdict"] == "not told apart"
    assert to(results, "debug", 1)["no"]["kl_mean"]["p"] == 1


def test_few_items_are_no_win():
    results = [result("random", 0.15, 0.0, n=5), result("debug", 0.15, 90.0, n=5)]
    found = to(results, "debug")["random"]["score"]
    assert found["ci95"] == [90, 90]
    assert found["p"] == 2 / 2**5
    assert found["verdict"] == "not told apart"
    assert "5 items are too few" in " ".join(table(results, 0).split())
    assert "too few" not in table([result("random", 0.15), result("debug", 0.15)], 0)


def test_other_items_are_refused():
    swapped = result("b", 0.15)
    swapped["items"][:2] = reversed(swapped["items"][:2])
    with pytest.raises(ValueError, match="different items"):
        differences([result("a", 0.15), swapped], 0, SHOWN)


def test_it_repeats_and_is_json():
    rng = np.random.default_rng(0)
    results = [
        result(name, 0.15, rng.uniform(0, 100, N).tolist(), rng.random(N).tolist())
        for name in ("random", "a", "b")
    ]
    found = differences(results, 1, SHOWN)
    assert json.loads(json.dumps(found.rows, allow_nan=False)) == found.rows
    assert differences(results, 1, SHOWN) == found
    assert differences(results, 2, SHOWN) != found


def test_the_table():
    ups = [float(i) for i in range(N)]
    results = [
        result("no", None, FULL, 0.0),
        result("full", None, 20.0, 0.6),
        result("random", 0.15, 40.0, 0.3),
        result("debug", 0.15, [40.0 + u for u in ups], 0.1),
        result("oracle_kv", 0.15, 60.0, 0.05, oracle=True),
    ]
    text = table(results, 0)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 150
    assert lines[0].split("  ")[0] == "method"
    rows = {line.split()[0]: line for line in lines[1:5]}
    assert list(rows) == ["full", "random", "debug", "oracle_kv"]
    assert rows["oracle_kv"].startswith("oracle_kv 0.15* ")
    low, high = bootstrap(ups, 0)
    (row,) = [d for d in differences(results, 0, SHOWN).rows if d["method"] == "debug"]
    score, kl = (row["to"]["random"][name] for name in ("score", "kl_mean"))
    assert 0.001 < score["p_holm"] < 0.05
    assert f"+5.5 [{low:.1f}, {high:.1f}]  {score['p_holm']:.3f} B" in rows["debug"]
    assert f"-0.200 [-0.200, -0.200]  {kl['p_holm']:.3f} B" in rows["debug"]
    assert "+0.550 [0.550, 0.550]" not in rows["full"]  # to the best, that is no oracle
    assert "+0.500 [0.500, 0.500]  " in rows["full"]
    assert rows["full"].endswith(" W")
    assert "1.000 ~" in rows["debug"]
    for words in ("12 items", "10,000 paired bootstraps", "(Holm)", "* oracle"):
        assert words in text
    family = differences(results, 0, SHOWN).family
    assert f"{family} comparisons" in text
    assert "* oracle" not in table(results[:4], 0)


def test_no_minus_zero():
    results = [result("random", 0.15, 40.0), result("debug", 0.15, 40.0 - 1e-9)]
    assert "+0.0 [0.0, 0.0]" in table(results, 0)


def test_every_rate_has_its_rows():
    results = [result(name, rate) for rate in (0.3, 0.1) for name in ("random", "debug")]
    text = table(results, 0)
    assert [line.split()[:2] for line in text.splitlines()[1:5]] == [
        ["random", "0.1"],
        ["debug", "0.1"],
        ["random", "0.3"],
        ["debug", "0.3"],
    ]
    assert rates(results) == [0.1, 0.3]


def test_a_method_without_a_rate_is_named_with_the_rate_that_it_is_compared_at():
    results = [result(name, rate) for rate in (0.1, 0.3) for name in ("random", "debug")]
    lines = table([result("full"), *results], 0).splitlines()
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        *("full (at 0.1)", "random 0.1", "debug 0.1"),
        *("full (at 0.3)", "random 0.3", "debug 0.3"),
    ]
    alone = table([result("full"), *results[:2]], 0).splitlines()
    assert [line.split("  ")[0] for line in alone[1:4]] == ["full", "random 0.1", "debug 0.1"]


def test_p_is_corrected_over_all_that_the_table_shows():
    """Scores to the control and the full prefill, KLs of every pair: the best could be any."""
    rng = np.random.default_rng(1)
    results = [
        result(name, rate, rng.uniform(0, 100, N).tolist(), (level + rng.random(N)).tolist())
        for name, rate, level in [
            ("full", None, 0.9),
            ("random", 0.15, 0.6),
            ("debug", 0.15, 0.3),
            ("blend", 0.15, 0.0),
        ]
    ]
    found = differences(results, 0, SHOWN)
    kls = {r["config"]["method"]: [i["kl_mean"] for i in r["items"]] for r in results}
    scores = {r["config"]["method"]: [i["score"] for i in r["items"]] for r in results}
    names = list(kls)
    wanted = {
        **{
            ("kl_mean", a, b): p_of(np.subtract(kls[a], kls[b]))
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
        **{
            ("score", a, "random"): p_of(np.subtract(scores[a], scores["random"]))
            for a in names
            if a != "random"
        },
        **{("score", a, "no"): p_of(np.subtract(scores[a], FULL)) for a in names},
    }
    assert found.family == len(wanted) == 6 + 3 + 4
    corrected = dict(zip(wanted, holm(list(wanted.values())), strict=True))
    shown = 0
    for row in found.rows:
        for role, name in SHOWN:
            cell = row["to"].get(role, {}).get(name)
            if cell is None:
                continue
            keys = [(name, row["method"], cell["other"]), (name, cell["other"], row["method"])]
            (key,) = [key for key in keys if key in wanted]
            assert cell["p"] == pytest.approx(wanted[key])
            assert cell["p_holm"] == pytest.approx(corrected[key])
            assert (cell["verdict"] != "not told apart") == (corrected[key] < 0.05)
            shown += 1
    assert shown == 3 + 3 + 4 + 3


def test_a_pair_that_stands_there_twice_is_one_comparison():
    """Two runs and nothing else: to the control and to the best are the same two."""
    results = [result("random", 0.15, kl=0.5), result("debug", 0.15, kl=0.1)]
    found = differences(results, 0, (("random", "kl_mean"), ("best", "kl_mean")))
    assert found.family == 1
    ours, control = (row["to"] for row in found.rows[::-1])
    assert ours["random"]["kl_mean"]["p_holm"] == 2 / 2**N
    assert control["best"]["kl_mean"]["p_holm"] == 2 / 2**N
    assert (ours["random"]["kl_mean"]["verdict"], control["best"]["kl_mean"]["verdict"]) == (
        "better",
        "worse",
    )


def test_methods_without_a_rate_count_where_they_are_shown():
    results = [result(name, r) for name, r in [("full", None), ("random", 0.1), ("debug", 0.1)]]
    shown = (("random", "kl_mean"),)
    assert differences(results, 0, shown).family == 2
    without = differences(results, 0, shown, rateless=False)
    assert without.family == 1
    (full,) = [row for row in without.rows if row["method"] == "full"]
    assert full["to"]["random"]["kl_mean"]["verdict"] is None


def test_scores_that_rounding_sets_apart_are_tied():
    """An F1 of 2/3 from 1 word right of 1 and of 2, and from 5 right of 6 and of 9."""

    def f1(right, ours, theirs):
        precision, recall = right / ours, right / theirs
        return 100 * (2 * precision * recall / (precision + recall))

    one, other = f1(1, 1, 2), f1(5, 6, 9)
    assert one != other
    found = to([result("random", 0.15, one), result("debug", 0.15, other)], "debug")
    assert found["random"]["score"]["estimate"] == 0
    assert found["random"]["score"]["p"] == 1
