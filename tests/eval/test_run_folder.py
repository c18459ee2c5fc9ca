"""A run's folder: what is finished is believed only as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.folder import RunFolder, read_result
from eval.record import from_line, to_line
from models.errors import UserError

MACHINE = {"device": "AMD EPYC", "threads": 1}
CONFIG = {"method": "debug", "options": {"rate": 0.15}, "code": "abc"}


def record(name: str = "row-0", **changes) -> dict:
    return {
        "id": name,
        "tokens": 300,
        "question_tokens": 17,
        "documents": 270,
        "chunks": 3,
        "recomputed": 57,
        "selected": "AAE=",
        "selected_sha256": "0123456789abcdef",
        "answers": ["the river"],
        "prediction": "river",
        "score": 66.7,
        "extra_scores": {},
        "full_score": 100.0,
        "kl_first": 0.01,
        "kl_mean": 0.02,
        "top1_agreement": 0.9,
        "delta_kv": None,
        "delta_attn": [0.1, 0.2],
        "ttft_ms": {"cold": 20.0, "ready": 10.0},
        "ttft_parts_ms": {"load": 10.0},
        "ttft_parts_ready_ms": {"load": 0.0},
        "tpot_ms": None,
        "flop_limit": 5.0,
        "full_prefill_ms": 100.0,
        "load_ms": None,
        "answer_kept": False,
        "page_cache_dropped": True,
        "tpot_parts_ms": {"step": 20.0, "evict": 1.5},
        "evict_ms": 15.0,
        "evictions": 1,
        "kv_bytes": 4096,
        "kvfuse": "abc",
        **changes,
    }


def run(root: Path, config: dict | None = None) -> RunFolder:
    return RunFolder(root, "debug", config or CONFIG, MACHINE)


@pytest.fixture
def lines(tmp_path) -> Path:
    with run(tmp_path).opened() as folder:
        for number in range(3):
            folder.append(record(f"row-{number}"))
    return folder.path / "records.jsonl"


def test_a_line_comes_back():
    assert from_line(to_line(record(depth=25.0))) == record(depth=25.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["score", "kl_first", "kl_mean", "full_prefill_ms", "flop_limit"])
def test_a_figure_that_is_no_number_is_never_kept(tmp_path, key, value):
    with run(tmp_path).opened() as folder:
        with pytest.raises(UserError, match=f"item row-7 .*{key}"):
            folder.append(record("row-7", **{key: value}))
        assert folder.records == {}
    assert (folder.path / "records.jsonl").read_bytes() == b""


@pytest.mark.parametrize("key", sorted(record()))
def test_a_missing_or_renamed_key_is_refused(key):
    broken = {name: value for name, value in record().items() if name != key}
    if key != "id":
        with pytest.raises(ValueError, match=key):
            to_line(broken)


def test_blank_lines_are_no_damage(lines, tmp_path, capsys):
    lines.write_bytes(lines.read_bytes().replace(b"\n", b"\n\n"))
    with run(tmp_path).opened() as folder:
        assert list(folder.records) == ["row-0", "row-1", "row-2"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"score": 66.7', '"score": 76.7'),
        lambda text: text.replace('"kl_mean"', '"kl_meam"'),
        lambda text: text.replace('"digest"', '"other"'),
        lambda text: text[:40] + "\0" * 20 + text[60:],
        lambda text: text[:100],
        lambda text: "[]",
    ],
)
def test_a_damaged_line_costs_its_own_item_only(lines, tmp_path, capsys, damage):
    found = lines.read_text(encoding="utf-8").split("\n")
    found[1] = damage(found[1])
    lines.write_text("\n".join(found), encoding="utf-8")
    with run(tmp_path).opened() as folder:
        assert list(folder.records) == ["row-0", "row-2"]
        folder.append(record("row-1"))
    err = capsys.readouterr().err
    assert "line 2" in err
    assert err.count("\n") == 1
    with run(tmp_path).opened() as folder:
        assert len(folder.records) == 3


def test_a_half_written_last_line_is_cut_off(lines, tmp_path):
    whole = lines.read_bytes()
    lines.write_bytes(whole[:-30])
    with run(tmp_path).opened() as folder:
        assert list(folder.records) == ["row-0", "row-1"]
    assert lines.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_other_code_is_another_run(lines, tmp_path):
    with run(tmp_path, {**CONFIG, "code": "abd"}).opened() as folder:
        assert folder.records == {}
        assert folder.path / "records.jsonl" != lines
    with run(tmp_path).opened() as folder:
        assert len(folder.records) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"threads": 1', '"threads": 2'),
        lambda text: text.replace("0.15", "0.16"),
        lambda text: text.replace('"machine"', '"mashine"'),
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_a_damaged_configuration_is_one_clear_line(lines, tmp_path, damage):
    path = lines.parent / "config.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with (
        pytest.raises(UserError, match=r"config\.json is damaged .*FRESH=1"),
        run(tmp_path).opened(),
    ):
        pass
    with run(tmp_path).opened(fresh=True) as folder:
        assert folder.records == {}


def test_a_result_is_believed_as_it_was_written(tmp_path):
    with run(tmp_path).opened() as folder:
        folder.finish({"score": 66.7, "n": 1}, "text\n")
    path = folder.path / "result.json"
    assert read_result(path) == {"score": 66.7, "n": 1}
    path.write_text(path.read_text(encoding="utf-8").replace("66.7", "96.7"), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_result(path)
    path.write_text(json.dumps({"score": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="earlier version"):
        read_result(path)
