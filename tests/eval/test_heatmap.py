"""The heatmap: its numbers by hand, and its picture read back from the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps, image

from eval.report.heatmap import COLOURS, draw, numbers


def record(length: int, depth: float, score: float) -> dict:
    return {"context_length": length, "depth": depth, "score": score}


GRID = [
    record(512, 100, 0),
    record(256, 0, 100),
    record(256, 100, 50),
    record(512, 0, 0),
    record(256, 50, 100),
    record(256, 50, 0),
    record(256, 50, 50),
]


def colours(path: Path) -> set[tuple[int, ...]]:
    pixels = image.imread(path)[..., :3]
    return set(map(tuple, (pixels.reshape(-1, 3) * 255).round().astype(int).tolist()))


def where(path: Path, value: float) -> tuple[float, float]:
    """Centre, as shares of width and height, of the cell with the colour of ``value``."""
    pixels = image.imread(path)[..., :3]
    near = np.abs(pixels - np.array(colormaps[COLOURS](value)[:3])).max(axis=-1) < 0.004
    near[:, int(0.75 * near.shape[1]) :] = False  # the colour bar, which has every colour
    rows, columns = np.nonzero(near)
    assert len(rows) > 500
    return columns.mean() / near.shape[1], rows.mean() / near.shape[0]


def test_numbers_by_hand():
    assert numbers(GRID) == {
        "lengths": [256, 512],
        "depths": [0, 50, 100],
        "scores": [[1.0, 0.0], [0.5, None], [0.5, 0.0]],
        "counts": [[1, 1], [3, 0], [1, 1]],
        "n": 7,
        "mean": pytest.approx(3 / 7),
    }


@pytest.mark.parametrize(
    ("length", "depth", "right", "low"),
    [
        (256, 0, False, False),
        (768, 0, True, False),
        (256, 100, False, True),
        (768, 100, True, True),
    ],
)
def test_lengths_run_right_and_depths_run_down(tmp_path, length, depth, right, low):
    records = [
        record(x, y, 100 * ((x, y) == (length, depth)))
        for x in (768, 256, 512)
        for y in (100, 0, 50)
    ]
    path = tmp_path / "heatmap.png"
    draw(records, "debug, r = 0.15", path)
    column, row = where(path, 1.0)
    assert (column > 0.4) == right
    assert (row > 0.5) == low
    dark = where(path, 0.0)
    assert (dark[0] > column) != right
    assert (dark[1] > row) != low


def test_the_scale_is_fixed_whatever_the_scores(tmp_path):
    path = tmp_path / "heatmap.png"
    draw([record(256, 0, 60), record(512, 0, 40)], "full", path)
    better, worse = where(path, 0.6), where(path, 0.4)
    assert better[0] < worse[0]


def test_a_missing_cell_is_hatched_grey(tmp_path):
    full, missing = tmp_path / "full.png", tmp_path / "missing.png"
    draw([*GRID, record(512, 50, 0)], "full", full)
    draw(GRID, "full", missing)
    grey = {(224, 224, 224), (153, 153, 153)}
    assert grey <= colours(missing)
    pixels = image.imread(missing)[..., :3]
    rows, columns = np.nonzero(np.abs(pixels - 0.88).max(axis=-1) < 0.004)
    assert len(rows) > 5000
    height, width = pixels.shape[:2]
    assert 0.4 < columns.mean() / width < 0.8
    assert 0.35 < rows.mean() / height < 0.7
    assert len(np.nonzero(np.abs(image.imread(full)[..., :3] - 0.88).max(axis=-1) < 0.004)[0]) < 500


@pytest.mark.parametrize("score", [0, 100])
def test_a_single_cell(tmp_path, score):
    path = tmp_path / "heatmap.png"
    draw([record(256, 0, score)], "no", path)
    column, row = where(path, score / 100)
    assert 0.2 < column < 0.6
    assert 0.3 < row < 0.7


def test_a_large_grid_is_drawn_and_only_the_two_files_are_left(tmp_path):
    records = [record(128 * x, y * 100 / 34, 50) for x in range(1, 36) for y in range(35)]
    path = tmp_path / "out" / "heatmap.png"
    draw(records, "blend, r = 0.3", path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["heatmap.json", "heatmap.png"]
    saved = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert saved == {"title": "blend, r = 0.3", **numbers(records)}
