"""Where rows come from, in which order, and what is said when they cannot be had."""

import bz2
import gzip
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ConnectError
from huggingface_hub.errors import LocalEntryNotFoundError

from data import datasets
from data import rows as rows_module
from data.request import Request
from data.row import Row
from data.sources import hotpotqa, longbench
from data.sources.longbench import hub
from models.errors import UserError

TASK = datasets.get("2wikimqa")


def asked(limit=None, folder=None, sample=True):
    return Request(measure=lambda row: 0, room=0, limit=limit, longbench_dir=folder, sample=sample)


def load_rows(task, limit=None, folder=None, sample=True):
    return rows_module.load_rows(task, asked(limit, folder, sample))


def make_row(number: int, **changes: Any) -> dict:
    row = {
        "input": f"Who is {number}?",
        "context": "Passage 1:\nÅsa\nÅsa is a village.",
        "answers": ["Åsa"],
        "length": 12,
        "dataset": "2wikimqa",
        "language": "en",
        "all_classes": None,
        "_id": f"row-{number}",
    }
    return row | changes


ROWS = [make_row(number) for number in range(5)]
READ = [
    Row(
        id=f"row-{number}",
        question=f"Who is {number}?",
        context="Passage 1:\nÅsa\nÅsa is a village.",
        answers=["Åsa"],
        length=12,
    )
    for number in range(5)
]


def as_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def make_zip(path: Path, task: str = TASK.name) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"data/{task}.jsonl", as_jsonl(ROWS))
    return path


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline machine with an empty hub cache."""

    def nothing_cached(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("not cached")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(hub, "hf_hub_download", nothing_cached)
    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)


@pytest.mark.parametrize(("skip", "limit"), [(0, 2), (2, None), (1, 2), (4, 9)])
def test_rows_are_left_out_before_the_first_ones_are_taken(tmp_path, skip, limit):
    """Whatever the source: those of development and those of the test are other rows."""
    (tmp_path / "2wikimqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    request = replace(asked(limit, str(tmp_path)), skip=skip)
    end = None if limit is None else skip + limit
    assert rows_module.load_rows(TASK, request).rows == READ[skip:end]


def test_rows_that_are_all_left_out(tmp_path):
    (tmp_path / "2wikimqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(UserError, match="SKIP=5 leaves nothing of 2wikimqa, which has 5 rows"):
        rows_module.load_rows(TASK, replace(asked(folder=str(tmp_path)), skip=5))
    with pytest.raises(UserError, match="SKIP=-1 must be at least 0"):
        replace(asked(), skip=-1)


@pytest.mark.parametrize(
    ("end", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_folder_plain_or_compressed(
    tmp_path: Path, end: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / f"2wikimqa.jsonl{end}").write_bytes(pack(as_jsonl(ROWS)))
    found = load_rows(TASK, 2, str(tmp_path))
    assert found.rows == READ[:2]
    assert (found.source, found.is_sample, found.available) == ("folder", False, 5)
    assert found.where == str(tmp_path / f"2wikimqa.jsonl{end}")
    assert load_rows(TASK, None, str(tmp_path)).rows == READ


def test_folder_with_the_benchmarks_zip_or_unpacked(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "zipped" / "data.zip")
    for place in (archive.parent, archive):
        assert load_rows(TASK, None, str(place)).rows == READ
    (tmp_path / "open" / "data").mkdir(parents=True)
    (tmp_path / "open" / "data" / "2wikimqa.jsonl").write_bytes(as_jsonl(ROWS))
    assert load_rows(TASK, None, str(tmp_path / "open")).rows == READ


def test_only_a_folder_that_is_named_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a shell once exported must not decide silently which rows a run has."""
    (tmp_path / "2wikimqa.jsonl").write_bytes(as_jsonl(ROWS))
    monkeypatch.setenv("LONGBENCH_DIR", str(tmp_path))
    assert load_rows(TASK, 1).source == "built-in sample"


def test_a_named_folder_is_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "lcc.jsonl.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no 2wikimqa.jsonl .* it holds lcc.jsonl.gz"):
        load_rows(TASK, None, str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        load_rows(TASK, None, str(tmp_path / "nowhere"))
    make_zip(tmp_path / "data.zip", task="lcc")
    with pytest.raises(UserError, match=r"data.zip has no 2wikimqa.jsonl; it holds lcc.jsonl"):
        load_rows(TASK, None, str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_jsonl(ROWS)[:-30], "line 5: not JSON, or cut short"),
        (as_jsonl(ROWS[:1]) + b"\xff\xfe\n", "line 2: not UTF-8"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'{"input": "", "context": ""}\n', "line 1: the row lacks answers, length, dataset"),
        (as_jsonl([make_row(0, answers=[])]), "line 1: answers must be a list"),
        (as_jsonl([make_row(0, answers="Anna")]), "line 1: answers must be a list"),
        (as_jsonl([make_row(0), make_row(1, context=3)]), "line 2: context must be text"),
        (as_jsonl([make_row(0, length="12")]), "line 1: length must be a whole number, not '12'"),
        (as_jsonl([make_row(0, all_classes="City")]), "line 1: all_classes must be a list or null"),
        (as_jsonl([ROWS[0], ROWS[0]]), "_id 'row-0' occurs twice"),
        (b"\n", "holds no rows"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "2wikimqa.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{re.escape(message)}") as caught:
        load_rows(TASK, None, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_truncated_archive(tmp_path: Path, end: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"2wikimqa.jsonl{end}").write_bytes(pack(as_jsonl(ROWS))[:-20])
    with pytest.raises(UserError, match=r"2wikimqa.jsonl... is damaged or cut short after line"):
        load_rows(TASK, None, str(tmp_path))


def test_truncated_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "data.zip")
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"data.zip is damaged"):
        load_rows(TASK, None, str(tmp_path))


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit: int) -> None:
    with pytest.raises(UserError, match=f"LIMIT={limit} asks for no rows"):
        load_rows(TASK, limit)


def test_hub_copy_is_fetched_once_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make_zip(tmp_path / "snapshots" / "abc123" / "data.zip")

    def download(repo: str, name: str, *, repo_type: str, local_files_only: bool = False) -> str:
        assert (name, repo_type) == ("data.zip", "dataset")
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(archive)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: None)
    found = load_rows(TASK, 3, sample=False)
    assert (found.rows, found.source, found.available) == (READ[:3], "hub", 5)
    assert found.where == "THUDM/LongBench@abc123"
    assert capsys.readouterr().err == ""


def test_cached_hub_copy_needs_no_network_under_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "snapshots" / "abc123" / "data.zip")

    def download(repo: str, *_: Any, local_files_only: bool = False, **__: Any) -> str:
        if repo.startswith("THUDM") or not local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(archive)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert load_rows(TASK, None).where == "zai-org/LongBench@abc123"


def use_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "2wikimqa.jsonl").write_bytes(as_jsonl(ROWS))
    monkeypatch.setattr(longbench, "SAMPLE_DIR", folder)


def test_without_a_hub_the_sample_serves_and_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_sample(tmp_path, monkeypatch)
    found = load_rows(TASK, 4)
    assert (found.rows, found.source, found.is_sample) == (READ[:4], "built-in sample", True)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "BUILT-IN SAMPLE, NOT THE BENCHMARK: 2wikimqa runs on 4 rows" in said
    assert "Name or service not known" in said
    assert "LONGBENCH_DIR" in said


def test_the_sample_can_be_refused_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sample(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"SAMPLE=0 refuses .* set LONGBENCH_DIR"):
        load_rows(TASK, 4, sample=False)
    with pytest.raises(UserError, match=r"musique: .* no built-in sample .* set LONGBENCH_DIR"):
        load_rows(datasets.get("musique"), 4)


QUESTION = {
    "_id": "5a8b",
    "question": "Who wrote Ux?",
    "answer": "Anna Ek",
    "context": [["Ux", ["Ux is a song.", " Anna Ek wrote it."]], ["Uy", ["Uy is a hill."]]],
}


def test_hotpotqa_rows_are_in_longbenchs_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = tmp_path / "hotpotqa.json"
    pack.write_text(json.dumps([QUESTION, QUESTION | {"_id": "5a8c"}]))
    monkeypatch.setattr(hotpotqa, "pack_file", lambda name: pack)
    found = load_rows(datasets.get("hotpotqa_distractor"), 1)
    assert (found.source, found.available, len(found.rows)) == ("data pack", 2, 1)
    context = "Passage 1:\nUx\nUx is a song. Anna Ek wrote it.\nPassage 2:\nUy\nUy is a hill."
    words = len(["Who", "wrote", "Ux?", *context.split(), "Anna", "Ek"])
    row = Row("5a8b", "Who wrote Ux?", context, answers=["Anna Ek"], length=words)
    assert found.rows == [row]


def test_hotpotqa_pack_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotpotqa, "PACK_FILE", "no-such-file.json")
    with pytest.raises(UserError, match="not installed; run: make setup"):
        load_rows(datasets.get("hotpotqa_distractor"), 1)
    pack = tmp_path / "hotpotqa.json"
    monkeypatch.setattr(hotpotqa, "pack_file", lambda name: pack)
    for content in ("[{", '[{"_id": "1"}]', '{"a": 1}', "[3]"):
        pack.write_text(content)
        with pytest.raises(UserError, match=r"not HotpotQA as expected .* run: make setup"):
            load_rows(datasets.get("hotpotqa_distractor"), 1)
