"""Who beats whom: every pair, tested once, beside brute force and the tables' own differences."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eval.analysis.pairwise import pairwise
from eval.analysis.significance import holm, sign_flip
from eval.analysis.stats import paired, paired_all

N = 12


def run(method, rate=None, *, seed, shift=0.0, oracle=False):
    rng = np.random.default_rng(seed)
    kls = rng.gamma(2.0, 0.1, N) + shift
    scores = (rng.random(N) < 0.5 - shift) * 100.0
    items = [
        {
            "id": f"i{i}",
            "score": float(scores[i]),
            "full_score": 100.0 * (i % 3 > 0),
            "kl_mean": float(kls[i]) if method != "no" else 0.0,
        }
        for i in range(N)
    ]
    options = {} if rate is None else {"rate": rate}
    return {"config": {"method": method, "options": options}, "oracle": oracle, "items": items}


RUNS = [
    run("full", seed=1, shift=0.3),
    run("random", 0.1, seed=2, shift=0.25),
    run("random", 0.5, seed=3, shift=0.1),
    run("debug", 0.1, seed=4),
    run("debug", 0.5, seed=5),
    run("oracle_kv", 0.1, seed=6, oracle=True),
]


def values(result, key):
    return np.array([item[key] for item in result["items"]])


def test_all_means_at_once_are_the_means_one_by_one():
    gaps = np.random.default_rng(0).normal(size=(7, 31)) * 3
    for row, found in zip(gaps, paired_all(gaps, 5), strict=True):
        alone = paired(row, 5)
        assert found["estimate"] == pytest.approx(alone["estimate"], rel=1e-12)
        assert found["ci95"] == pytest.approx(alone["ci95"], rel=1e-9)


def test_every_pair_of_a_rate_is_there():
    found = pairwise(RUNS, 0, ("score", "kl_mean"))
    tables = {(t.measure, t.rate): t for t in found.tables}
    assert list(tables) == [("score", 0.1), ("score", 0.5), ("kl_mean", 0.1), ("kl_mean", 0.5)]
    assert tables["kl_mean", 0.1].names == ["full", "random", "debug", "oracle_kv*"]
    assert tables["kl_mean", 0.5].names == ["full", "random", "debug"]
    assert tables["score", 0.5].names == ["no", "full", "random", "debug"]
    # Pairs of both rates, that of no and full but once.
    assert found.family == (10 + 6 - 1) + (6 + 3)


def test_a_cell_is_row_minus_column_with_its_interval_and_p():
    found = pairwise(RUNS, 3, ("kl_mean",))
    runs = [RUNS[0], RUNS[1], RUNS[3], RUNS[5]]
    raw, cells = [], []
    for table, peers in zip(found.tables, (runs, [RUNS[0], RUNS[2], RUNS[4]]), strict=True):
        for i, j in combinations(range(len(peers)), 2):
            gaps = values(peers[i], "kl_mean") - values(peers[j], "kl_mean")
            cell, other = table.cells[i][j], table.cells[j][i]
            wanted = paired(gaps, 3)
            assert cell["estimate"] == pytest.approx(wanted["estimate"])
            assert cell["ci95"] == pytest.approx(wanted["ci95"])
            assert cell["p"] == sign_flip(gaps[None], 3)[0]
            assert other["estimate"] == -cell["estimate"]
            assert other["ci95"] == [-cell["ci95"][1], -cell["ci95"][0]]
            assert other["p_holm"] == cell["p_holm"]
            raw.append(cell["p"])
            cells.append((cell, other))
        assert all(table.cells[i][i] is None for i in range(len(peers)))
    for (cell, other), p in zip(cells, holm(raw), strict=True):
        assert cell["p_holm"] == p
        words = {"better": "worse", "worse": "better", "not told apart": "not told apart"}
        assert other["verdict"] == words[cell["verdict"]]
        claim = "better" if cell["estimate"] < 0 else "worse"  # less distance is better
        assert cell["verdict"] == (claim if p < 0.05 else "not told apart")
    assert {cell["verdict"] for cell, _ in cells} > {"not told apart"}


def test_the_full_prefill_is_compared_where_it_has_no_run_of_its_own():
    alone = pairwise(RUNS[:1], 0, ("score", "kl_mean"))
    (table,) = alone.tables
    assert (table.names, table.places) == (["no", "full"], [None, 0])
    gaps = values(RUNS[0], "full_score") - values(RUNS[0], "score")
    assert table.cells[0][1]["estimate"] == pytest.approx(gaps.mean())
    own = pairwise([run("no", seed=9), RUNS[0]], 0, ("score", "kl_mean"))
    assert [table.places for table in own.tables] == [[0, 1]]


def test_equal_runs_are_not_told_apart():
    again = {**RUNS[0], "config": {"method": "cat", "options": {}}}
    for table in pairwise([RUNS[0], again], 0, ("kl_mean",)).tables:
        assert table.cells[0][1] == {
            "estimate": 0.0, "ci95": [0.0, 0.0], "p": 1.0, "p_holm": 1.0,
            "verdict": "not told apart",
        }  # fmt: skip
