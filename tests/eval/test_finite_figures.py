"""NaN and infinities are refused wherever they would become a figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eval.analysis.alarms import alarms
from eval.analysis.compare import differences
from eval.analysis.fidelity import agreement, divergence, kl_divergence, mean_kl
from eval.analysis.finite import NotFinite, require_finite
from eval.analysis.significance import holm, sign_flip, sign_test
from eval.analysis.stats import bootstrap, middle, paired, per_item, ratio, spread
from eval.analysis.summary import by_length, summarize
from eval.report import curves, grid, heatmap, overview, table
from models.errors import UserError
from tests.eval.test_compare import SHOWN
from tests.eval.test_compare import result as compared
from tests.eval.test_curves import row, sweep
from tests.eval.test_sweep_report import result as swept

BAD = [math.nan, math.inf, -math.inf]
bad = pytest.mark.parametrize("bad", BAD)


@bad
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "function",
    [
        lambda v: bootstrap(v, 0),
        lambda v: bootstrap(v, 0, "median"),
        lambda v: paired(v, 0),
        lambda v: per_item(v, [1.0, 2.0, 3.0]),
        lambda v: per_item([1.0, 2.0, 3.0], v),
        lambda v: ratio(v, [1.0, 2.0, 3.0], 0),
        lambda v: ratio([1.0, 2.0, 3.0], v, 0),
        lambda v: spread(v, 0),
        middle,
        holm,
        lambda v: sign_flip(np.array([v]), 0),
        lambda v: sign_test(np.array([v])),
        lambda v: by_length([{"score": x, "length": 1} for x in v]),
        lambda v: heatmap.numbers([{"score": x, "depth": 0, "context_length": 1} for x in v]),
    ],
)
def test_statistics_refuse_what_is_no_number(function, place, bad):
    values = [1.0, 3.0, 2.0]
    values[place] = bad
    with pytest.raises(NotFinite):
        function(values)


@bad
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_distance_comes_of_logits_that_are_no_numbers(which, dtype, bad):
    """max(0.0, nan) is 0.0: the worst method would have been called a perfect one."""
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[which, 1, 7] = bad
    with pytest.raises(NotFinite, match="logits of the"):
        kl_divergence(*logits[:, 1])
    with pytest.raises(NotFinite):
        mean_kl(*logits)
    with pytest.raises(NotFinite, match="1 of 150 are NaN or infinite"):
        agreement(logits[which], [0, 1, 2])


@pytest.mark.parametrize("value", [*BAD, -2e-6, -1.0])
def test_what_is_no_divergence_is_refused(value):
    with pytest.raises(NotFinite, match="is none"):
        divergence(value)


def test_rounding_below_zero_is_zero():
    assert [divergence(x) for x in (-1e-6, -1e-17, -0.0, 0.0)] == [0, 0, 0, 0]
    assert divergence(1e-9) == 1e-9


def test_wherever_it_stands_it_is_found_and_named():
    record = {"id": "q3", "ttft_ms": {"cold": None, "ready": 3.0}, "delta_kv": [0.1, math.nan]}
    with pytest.raises(UserError, match=r"^item q3: delta_kv\[1\] is nan; .*DTYPE=float32"):
        require_finite(record, "item q3")
    with pytest.raises(NotFinite, match="ready is inf"):
        require_finite({"ttft_ms": {"ready": math.inf}}, "x")
    with pytest.raises(NotFinite, match=r"x\[0\]\[1\]"):
        require_finite([(1, np.float32("nan"))], "x")
    with pytest.raises(NotFinite, match="1 of 2"):
        require_finite({"a": np.array([1.0, math.nan])}, "x")
    require_finite([1, 2.5, None, "nan", True, {"a": np.arange(3)}, np.array([1.0])], "x")


@bad
def test_a_method_without_numbers_is_not_the_best(bad):
    results = [compared("random", 0.15, kl=0.3), compared("debug", 0.15, kl=[0.2] * 11 + [bad])]
    for order in (results, results[::-1]):
        with pytest.raises(NotFinite, match="debug: a figure: item q11 is"):
            differences(order, 0, SHOWN)


@bad
def test_a_curve_without_numbers_is_not_looked_at_for_alarms(bad):
    runs = [swept("debug", 0.1, 0.3), swept("debug", 0.2, 0.2)]
    runs[1]["items"][4]["kl_mean"] = bad
    with pytest.raises(NotFinite, match="debug: a figure: item q4 is"):
        alarms(runs, 0)
    with pytest.raises(NotFinite):
        grid.content(runs, 0)


@bad
@pytest.mark.parametrize("name", ["score", "kl_first", "kl_mean", "retention", "flop_limit"])
def test_no_table_is_made_of_it(name, bad):
    runs = [swept("no", None, 0.0), swept("debug", 0.2, 0.2)]
    runs[1][name] = bad
    for make in (table.table, lambda r: grid.content(r, 0), lambda r: overview.table([r])):
        with pytest.raises(NotFinite, match=f"debug.*{name} is"):
            make(runs)


@bad
def test_deviations_without_numbers_are_not_passed_on(bad):
    runs = [swept("oracle_kv", 0.5, 0.2, oracle=True)]
    runs[0]["delta_kv"] = [0.1, bad]
    with pytest.raises(NotFinite, match=r"oracle_kv.*delta_kv"):
        grid.content(runs, 0)


@bad
@pytest.mark.parametrize("name", ["kl_mean", "score"])
def test_no_picture_is_drawn_of_it(tmp_path, name, bad):
    rows = [row("debug", 0.1, 0.2), row("debug", 0.2, 0.1)]
    rows[1][name] = bad
    with pytest.raises(NotFinite, match=name):
        curves.draw(sweep(rows), tmp_path / "sweep.png")
    assert list(tmp_path.iterdir()) == []


@bad
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl_mean", lambda x: x),
        ("score", lambda x: x),
        ("delta_attn", lambda x: [0.5, x]),
        ("ttft_ms", lambda x: {"cold": 1.0, "ready": x}),
        ("ttft_parts_ms", lambda x: {"load": x}),
    ],
)
def test_a_summary_names_the_item(name, value, bad):
    records = [{"id": f"q{i}", "kl_mean": 0.1} for i in range(3)]
    records[1][name] = value(bad)
    with pytest.raises(NotFinite, match=f"^item q1: {name}"):
        summarize(records, None, 0)
