"""``python -m eval.codecs``: what is found is what a run over KVs that were read so finds."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest
import torch

from eval import codecs as stage
from models import codecs
from models.prompt import Prompt
from tests.stages.harness import Workplace

METHODS = ["--reuse", "full", "random", "--rate", "0.3"]
FEW = ["--codecs", "none", "int8", "int4:tokens=8"]


def file_of(place: Workplace) -> Path:
    (path,) = (place.root / "outputs").glob("*/*/codecs-*.jsonl")
    return path


def records(place: Workplace) -> list[list[dict]]:
    lines = map(json.loads, file_of(place).read_text().splitlines())
    return [[record | {"item": line["id"]} for record in line["records"]] for line in lines]


@pytest.fixture(scope="module")
def done(tmp_path_factory, prepared) -> Workplace:
    root = tmp_path_factory.mktemp("codecs")
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    place = Workplace(root, prepared.model, prepared.rows)
    place.outcome = place.ok("codecs", *METHODS, *FEW)
    return place


def test_without_loss_it_is_the_sweep(done):
    """The first codec's figures are those of the stage that reads the files themselves."""
    done.ok("sweep", *METHODS, "--deviation", "0")
    swept = {
        (result["config"]["method"], item["id"]): item
        for path in (done.root / "outputs").glob("*/*/*/result.json")
        if (result := json.loads(path.read_text()))["config"]["options"].get("rate") in (None, 0.3)
        for item in result["items"]
    }
    for record in (record for item in records(done) for record in item):
        if record["codec"] == "none":
            item = swept[record["method"], record["item"]]
            for name in ("kl_mean", "kl_first", "score", "selected", "top1_agreement"):
                assert record[name] == item[name]


def test_fewer_bits_are_fewer_bytes_and_other_figures(done):
    of = {}
    for record in (record for item in records(done) for record in item):
        of.setdefault(record["codec"], []).append(record)
    nbytes = {name: sum(r["bytes"] for r in found) for name, found in of.items()}
    assert nbytes["int4:tokens=8"] < nbytes["int8"] < nbytes["none"]
    apart = {
        name: sum(abs(a["kl_mean"] - b["kl_mean"]) for a, b in zip(found, of["none"], strict=True))
        for name, found in of.items()
    }
    assert apart["none"] == 0 < apart["int8"] < apart["int4:tokens=8"]


def test_what_is_printed_is_the_mean_over_items(done):
    printed = done.outcome.out
    for name in ("none", "int8", "int4:tokens=8"):
        found = [r for item in records(done) for r in item if r["codec"] == name]
        kl = [r["kl_mean"] for r in found if r["method"] == "full"]
        line = next(
            row for row in printed.splitlines() if row.startswith("full") and f" {name} " in row
        )
        assert f"{sum(kl) / len(kl):.4f}" in line


def figures(place: Workplace) -> list[list[dict]]:
    """All that is found but times, which differ from call to call."""
    return [
        [{k: v for k, v in record.items() if k != "decode_ms"} for record in of_item]
        for of_item in sorted(records(place), key=lambda found: found[0]["item"])
    ]


def test_a_run_goes_on_where_it_ended(done):
    before, path = figures(done), file_of(done)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    done.ok("codecs", *METHODS, *FEW)
    assert figures(done) == before
    assert path.read_text().splitlines(keepends=True)[:2] == lines[:2]


@pytest.mark.parametrize(
    "damaged",
    [lambda line: line.replace('"kl_mean": ', '"kl_mean": 1', 1), lambda line: "[" * 100_000],
    ids=["edited", "no JSON"],
)
def test_a_line_that_is_not_as_it_was_written_is_told_and_its_item_done_again(done, damaged):
    before, path = figures(done), file_of(done)
    first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, damaged(second), *others]) + "\n")
    outcome = done.ok("codecs", *METHODS, *FEW)
    assert "line 2 is left out" in outcome.err
    first, _, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, *others]) + "\n")
    assert figures(done) == before


def test_what_was_found_behind_another_text_is_not_taken(prepared, tmp_path):
    place = Workplace(tmp_path, prepared.model, prepared.rows)
    text = tmp_path / "front.txt"
    for words in ("north and south " * 40, "brother market town " * 40):
        text.write_text(words)
        place.ok(
            *("codecs", "--reuse", "full", "--codecs", "none", "--limit", "1"),
            *("--context", f"primed:16:{text}"),
        )
    assert len(list((tmp_path / "outputs").glob("*/*/codecs-*.jsonl"))) == 2


def test_where_a_codec_loses_something_no_chunk_is_exact(prepared, tmp_path):
    """At a rate of 1 all of the documents is recomputed then, the first chunk too."""
    place = Workplace(tmp_path, prepared.model, prepared.rows)
    methods = ("--reuse", "random", "primer", "--rate", "1", "--limit", "2")
    place.ok("codecs", *methods, *FEW)
    for of_item in records(place):
        for record in of_item:
            assert record["kl_mean"] < 1e-4, record
    place.ok("sweep", *methods, "--codec", "int8")
    for path in (place.root / "outputs").glob("*/*/*/result.json"):
        for item in json.loads(path.read_text())["items"]:
            assert item["kl_mean"] < 1e-4


def test_fresh_finds_it_all_anew(done):
    before, path = figures(done), file_of(done)
    written = path.read_bytes()
    done.ok("codecs", *METHODS, *FEW, "--fresh", "1")
    assert path.read_bytes() != written, "at least the times of decoding are others"
    assert figures(done) == before


def test_another_call_on_the_same_file_waits_its_turn(done):
    with file_of(done).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = done.run("codecs", *METHODS, *FEW)
    assert outcome.code == 2
    assert "in use by another call" in outcome.err


def test_files_that_lie_under_a_codec_are_refused(done):
    for words in (["--codec", "int8"], ["--store", "chunks"]):
        outcome = done.run("codecs", *METHODS, *words)
        assert outcome.code == 2
        assert "name CODECS=, not STORE= or CODEC=" in outcome.err


def test_only_chunks_go_through_a_codec():
    prompt = Prompt.join([1] * 3, [[2] * 5, [3] * 40], [4] * 6)
    kv = torch.randn(2, 2, 3, len(prompt), 8, generator=torch.Generator().manual_seed(0))
    out, told = stage.through(codecs.build("int4"), kv, prompt)
    changed = (out != kv).flatten(0, 2).any(0).any(-1).tolist()
    assert changed == [False] * 3 + [True] * 45 + [False] * 6
    alone = Prompt.join([], [[2] * 5], [4])
    found, _ = stage.through(codecs.build("int4"), kv[:, :, :, 3:9], alone)
    assert torch.equal(
        out[:, :, :, 3:8], found[:, :, :, :5]
    )  # a chunk's bytes do not depend on its neighbours
    least = 2 * 2 * 3 * 8 / 2  # bytes of the codes alone
    assert least < told["bytes"] < least * 4
