"""``python -m bench.store.disks`` on a tiny model: every codec on every disk."""

from __future__ import annotations

import json

import pytest

from bench.store.disks import DisksConfig, main
from stage.options import command
from tests.stages.harness import make_model


def call(*words: object) -> int:
    return command("disks", DisksConfig, main, [str(word) for word in words])


def test_every_codec_is_timed_on_every_disk(tmp_path, capsys):
    folders = f"KVS={tmp_path / 'kvs'}", f"OUTPUTS={tmp_path / 'outputs'}"
    model = f"MODEL={make_model(tmp_path / 'tiny')}"
    codecs, disks = ["item", "none", "int4:tokens=8"], [0.0, 50.0]
    many = ["LENGTHS=160", "ROUNDS=1", "CHUNK_SIZE=24", "THREADS=1", "DEVICE=cpu"]
    words = f"CODEC={' '.join(codecs)}", f"DISKS={' '.join(map(str, disks))}"
    assert call(model, *folders, *many, *words) == 0
    rows = json.loads((tmp_path / "outputs" / "bench" / "disks.json").read_text())
    assert [(row["mb_per_s"], row["codec"]) for row in rows] == [
        (disk, codec) for disk in disks for codec in codecs
    ]
    mb = {row["codec"]: row["mb"] for row in rows}
    assert mb["item"] == mb["none"] > mb["int4:tokens=8"]
    for row in rows:
        assert min(row["first_ms"], row["overlap_ms"], row["ready_ms"], row["full_ms"]) > 0
        assert 0 <= row["visible"] <= 1
        assert row["decode_ms"] > 0 or not row["codec"].startswith("int4")
        if row["mb_per_s"]:
            assert row["first_ms"] >= row["mb"] / row["mb_per_s"] * 1e3
    printed = capsys.readouterr().out
    assert f"{rows[0]['overlap_ms']:.0f}" in printed
    assert not list((tmp_path / "kvs").iterdir())


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("CODEC=int9", "did you mean int8"),
        ("DISKS=-1", "DISKS are MB/s of 0 or more"),
        ("ROUNDS=0", "ROUNDS 1 or more"),
        ("CHUNK_SIZE=0", "CHUNK_SIZE=0 must be 2 or more"),
        ("FAST=graph", "here nothing is switched"),
        ("LENGTHS=64", "LENGTHS=64: give 128 or more"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, word, says):
    assert call(word) == 2
    assert says in capsys.readouterr().err
