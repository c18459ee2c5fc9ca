"""The picture of a sweep, read back from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from eval.report import curves
from eval.report.curves import COLOURS, draw
from eval.report.page import style


def row(method, rate, kl, score=40.0, oracle=False):
    return {
        "method": method,
        "rate": rate,
        "oracle": oracle,
        "kl_mean": kl,
        "kl_mean_ci95": None if kl is None else [kl / 2, kl * 2],
        "score": score,
        "score_ci95": [score - 20, score + 20],
    }


def sweep(rows, note=None):
    return {
        "note": note,
        "config": {"model": "tiny", "dataset": "questions"},
        "n": 10,
        "metric": "qa_f1",
        "full_score": 50.0,
        "rates": sorted({r["rate"] for r in rows if r["rate"] is not None}),
        "rows": rows,
    }


def places(path: Path, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, as shares of the left panel, of pixels in the colour."""
    pixels = image.imread(path)[..., :3]
    pixels = pixels[:, : int(0.44 * pixels.shape[1])]
    rows, columns = np.nonzero(np.abs(pixels - np.array(to_rgb(colour))).max(axis=-1) < 0.02)
    return rows / pixels.shape[0], columns / pixels.shape[1]


@pytest.mark.parametrize(
    ("kls", "falls"), [((0.4, 0.04, 0.0), True), ((0.04, 0.4, 0.5), False), ((0.5, 0.4, 0.3), True)]
)
def test_a_falling_distance_falls_in_the_picture(tmp_path, kls, falls):
    path = tmp_path / "sweep.png"
    draw(sweep([row("debug", r, kl) for r, kl in zip((0, 0.15, 1), kls, strict=True)]), path)
    heights, columns = places(path, COLOURS[0])
    left, right = columns < np.median(columns), columns > np.quantile(columns, 0.8)
    assert len(heights) > 200
    assert (heights[left].mean() < heights[right].mean()) == falls


def test_twelve_methods_are_drawn_apart(tmp_path):
    names = [f"method{i}" for i in range(9)]
    rows = [
        row("no", None, 0.0, 50.0),
        row("full", None, 0.6),
        row("cat", None, 0.8),
        *(row("random", r, 0.5 - 0.4 * r) for r in (0.1, 0.9)),
        *(
            row(name, r, 0.5 * (1 - r) / (i + 2))
            for i, name in enumerate(names)
            for r in (0.1, 0.9)
        ),
        *(row(name, 0.5, 0.001, oracle=True) for name in ("oracle_kv", "oracle_attn")),
    ]
    path = tmp_path / "out" / "sweep.png"
    draw(sweep(rows, note="a sample"), path)
    assert [p.name for p in path.parent.iterdir()] == ["sweep.png"]
    for colour in COLOURS:
        assert len(places(path, colour)[0]) > 100


OTHERWISE = (" [int8]", " @ prefix", " + drop=window", " + shift @ primed:256 [int8]")


def test_a_control_stays_one_however_its_kvs_lie():
    names = ["random", *(f"random:seed=1{more}" for more in OTHERWISE), "debug [int8]", "randomly"]
    drawn = curves._lines([row(name, 0.15, 0.2) for name in names])
    shown = style.styles((name, False) for name in names)
    controls = [name for name in names if drawn[name]["label"].endswith(" (control)")]
    assert controls == names[:-2]
    assert {drawn[name]["color"] for name in controls} == {curves.CONTROL["color"]}
    assert [name for name in names if shown[name] in style.CONTROLS] == controls
    assert drawn["random"]["linestyle"] != drawn[names[1]]["linestyle"]
    assert shown["random"] != shown[names[1]]


def test_methods_without_a_rate_have_a_line_however_their_kvs_lie():
    names = ["no", "no + drop=window", "full", *(f"full{more}" for more in OTHERWISE), "cat", "own"]
    axes, rows = Figure().subplots(), [row(name, None, 0.2) for name in names]
    curves._panel(axes, sweep(rows), {}, "kl_mean", None)
    assert [line.get_label() for line in axes.get_lines()] == [
        "full prefill + drop=window",
        "full reuse",
        *(f"full reuse{more}" for more in OTHERWISE),
        "cat",
        "own",
    ]
    looks = curves._levels(rows).values()
    assert len({(look["color"], look["linestyle"]) for look in looks}) == len(names) - 1


@pytest.mark.parametrize(
    "rows",
    [
        [row("full", None, 0.6)],
        [row("debug", 0.15, 0.2)],
        [row("debug", 1, 0.0)],
        [row("debug", 0, 0.0), row("debug", 1, 0.0)],
        [row("debug", 0.1, None), row("debug", 0.2, None)],
    ],
)
def test_little_to_draw(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(curves, "DPI", 40)  # faster
    path = tmp_path / "sweep.png"
    draw(sweep(rows), path)
    assert image.imread(path).shape[:2] == (200, 500)
