"""``make bench`` on a tiny model: what it writes, what it prints, and that it compares like."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.colors import to_rgb

from bench import figure, table
from bench.__main__ import main
from bench.config import BenchConfig
from bench.library import Library
from models.attention.registry import INTERFACE, choose_backend
from stage.options import command
from tests.stages.harness import make_model

LISTED = {
    *("n", "rate", "method", "backend", "dtype", "threads", "ready_ms", "cold_ms", "full_ms"),
    *("library_full_ms", "speedup_ready", "speedup_cold", "flop_limit", "share_of_limit"),
    "peak_mb",
}
METHODS = ["full", "random@160", "surprisal_chunk", "debug:check=cached", "blend"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run: the printed text, ``bench.json``, and the folders it worked in."""
    root = tmp_path_factory.mktemp("bench")
    options = {
        "model": make_model(root / "tiny"),
        "kvs": root / "kvs",
        "outputs": root / "outputs",
        "device": "cpu",
        "threads": 1,
        "rounds": 2,
        "chunk-size": 24,
        "sweep-length": 224,
        "decode-tokens": 6,
    }
    argv = ["bench/__main__.py", "--lengths", "224", "160", "--methods", *METHODS]
    argv += ["--sweep-methods", "random", "--sweep-rates", "0.5", "1.0"]
    left, held = (root / "kvs" / f".bench-{pid}-x" for pid in (2**30, os.getpid()))
    for folder in (left, held, root / "kvs" / ".bench-old"):
        folder.mkdir(parents=True)
    (left / "kvs.pt").write_bytes(bytes(10))
    argv += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *x, sep=" ", **_: printed.append(sep.join(x)))
        assert command("bench", BenchConfig, main, argv[1:]) == 0
    text = "\n".join(printed)
    saved = json.loads((root / "outputs" / "bench" / "bench.json").read_text(encoding="utf-8"))
    return SimpleNamespace(text=text, saved=saved, root=root)


def test_every_method_has_a_row_at_every_length_within_its_limit(outcome):
    found = [(row["n"], row["method"], row["rate"]) for row in outcome.saved["rows"]]
    short = ["full", "random", "surprisal_chunk", "debug:check=cached", "blend"]
    long = ["full", "surprisal_chunk", "debug:check=cached", "blend"]
    assert found == [
        *((160, method, 0.15) for method in short),
        *((224, method, 0.15) for method in long),
        (224, "random", 0.5),
        (224, "random", 1.0),
    ]


def test_a_row_holds_plain_numbers_that_agree_with_each_other(outcome):
    backend = choose_backend(torch.device("cpu"), torch.float32, 16)
    for row in outcome.saved["rows"]:
        assert row.keys() >= LISTED
        assert (row["backend"], row["dtype"], row["threads"]) == (backend, "float32", 1)
        assert row["peak_mb"] is None or row["peak_mb"] > 50
        for name in ("ready", "cold", "full", "library_full"):
            low, high = row[f"{name}_ms_spread"]
            assert 0 < low <= row[f"{name}_ms"] <= high
        assert row["speedup_ready"] == pytest.approx(row["full_ms"] / row["ready_ms"])
        assert row["speedup_cold"] == pytest.approx(row["full_ms"] / row["cold_ms"])
        reached = row["full_ms"] / row["ready_ms"] / row["flop_limit"]
        assert row["share_of_limit"] == pytest.approx(reached)
        assert 0 < row["load_ms"] <= row["cold_ms_spread"][1]
        assert row["llamacpp_full_ms"] is None
        assert row["kv_bytes"] == 2 * 4 * 2 * 16 * 4 * row["n"]
        assert row["page_cache_dropped"] in (True, False, None)


def test_the_full_prefills_are_one_measurement_a_length(outcome):
    for n in (160, 224):
        rows = [row for row in outcome.saved["rows"] if row["n"] == n]
        for key in ("full_ms", "library_full_ms", "full_peak_mb", "library_full_peak_mb"):
            assert len({row[key] for row in rows}) == 1


def test_the_limit_falls_with_the_rate_and_full_reuse_has_the_highest(outcome):
    at_224 = [row for row in outcome.saved["rows"] if row["n"] == 224]
    limits = {(row["method"], row["rate"]): row["flop_limit"] for row in at_224}
    assert max(limits, key=limits.__getitem__) == ("full", 0.15)
    cached, half = limits["debug:check=cached", 0.15], limits["random", 0.5]
    assert cached > half > limits["random", 1.0] > 1


def test_both_decode_the_same_tokens(outcome):
    for row, n in zip(outcome.saved["decode"], (160, 224), strict=True):
        assert (row["n"], row["tokens"]) == (n, 6)
        assert row["same_tokens"]
        assert row["ms_per_token"] > 0 < row["library_ms_per_token"]


def test_what_else_is_saved(outcome):
    saved = outcome.saved
    assert saved["environment"]["threads"] == 1
    assert saved["rounds"] == 2
    assert saved["llama_cpp"].startswith("llama.cpp: not measured")
    precompute = saved["precompute"]
    speeds = precompute["tokens_per_s"], precompute["library_tokens_per_s"]
    assert precompute["ratio"] == pytest.approx(speeds[0] / speeds[1])
    assert saved["break_even"]["method"] == "surprisal_chunk"
    assert [disk["gb_per_s"] for disk in saved["break_even"]["disks"]] == [None, 0.1, 0.5, 2, 7]
    assert all(disk["n"] == [160, 224] for disk in saved["break_even"]["disks"])


def test_the_printed_table_is_the_saved_one(outcome):
    lines = outcome.text.splitlines()
    start = lines.index(table.header())
    rows = outcome.saved["rows"]
    for line, row in zip(lines[start + 1 :], rows, strict=False):
        cells = line.split()
        assert cells[:3] == [str(row["n"]), row["method"], f"{row['rate']:g}"]
        assert cells[-1] == ("-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}")
        assert len(line) <= 100
    assert len(lines[start].split()) == len(table.COLUMNS) + 3  # three names are of two words
    for n in (160, 224):
        assert re.search(rf"^full prefill of {n}: library .* ms .*; full .* ms", outcome.text, re.M)
        assert re.search(rf"^decode after {n}: ", outcome.text, re.M)
    assert re.search(r"^break-even of surprisal_chunk", outcome.text, re.M)
    assert re.search(r"^cold: ", outcome.text, re.M)


def test_only_the_results_and_what_is_in_use_are_left(outcome):
    assert sorted(path.name for path in (outcome.root / "outputs" / "bench").iterdir()) == [
        "bench.json",
        "bench.png",
    ]
    assert [path.name for path in (outcome.root / "kvs").iterdir()] == [f".bench-{os.getpid()}-x"]


def colours(path: Path) -> np.ndarray:
    return image.imread(path)[..., :3].reshape(-1, 3)


def shows(pixels: np.ndarray, style: figure.Style) -> bool:
    return bool((np.abs(pixels - np.array(to_rgb(style.colour))).max(1) < 0.01).sum() > 50)


def test_the_figure_has_the_curves_that_were_measured(outcome, tmp_path):
    pixels = colours(outcome.root / "outputs" / "bench" / "bench.png")
    measured = (figure.OURS, figure.COLD, figure.READY, figure.REUSE, figure.LIMIT)
    assert all(shows(pixels, style) for style in measured)
    assert not shows(pixels, figure.LLAMA)
    rows = [
        {**row, "llamacpp_full_ms": 90.0 * row["n"], "llamacpp_full_ms_spread": [1.0, 1e6]}
        for row in outcome.saved["rows"]
        if row["n"] == 160
    ]
    figure.draw(rows, "full", 0.15, "one length, with llama.cpp", tmp_path / "one.png")
    assert shows(colours(tmp_path / "one.png"), figure.LLAMA)


def test_rows_without_peak_or_llama_print_too(outcome):
    row = {**outcome.saved["rows"][0], "peak_mb": None, "full_peak_mb": None}
    assert table.line(row).endswith(" -")
    assert "peak" not in table.full_line({**row, "library_full_peak_mb": None})
    row |= {"llamacpp_full_ms": 123.4, "llamacpp_full_ms_spread": [120.0, 130.0]}
    assert table.full_line(row).endswith("llama.cpp 123 ms (120-130)")
    truths = ([True, True], "was dropped"), ([True, False], "NOT"), ([None, None], "cannot be told")
    for dropped, words in truths:
        line = table.cold_line([{"page_cache_dropped": value} for value in dropped])
        assert words in line


def test_answers_that_differ_are_told(outcome):
    row = outcome.saved["decode"][0]
    assert "differ" not in table.decode_line(row)
    assert table.decode_line({**row, "same_tokens": False}).endswith("; answers differ")


def test_the_model_is_ours_again_after_the_library_fails(llama):
    model = llama.engine.modules.model
    library = Library(model, llama.engine.device)
    with pytest.raises(IndexError):
        library.forward_ms([[10**6]], head=True)
    assert model.config._attn_implementation == INTERFACE
