"""The inputs file, its address and its seal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from data import datasets, inputs
from data.segments import Splitting
from models.errors import UserError
from models.sealed import seal

DATASET = datasets.get("2wikimqa")
SETTINGS = Splitting("token", 4, 100, True)
FOUND = {
    "source": "folder",
    "where": "rows.jsonl",
    "is_sample": False,
    "available": 9,
    "truncated": 0,
}


def recipe(dataset=DATASET, **changes) -> inputs.Recipe:
    made_from = {
        "rows": "r",
        "model": "model",
        "tokenizer": "t",
        "settings": SETTINGS,
        "generation": {},
        "sink": [1],
        "skip": 0,
        "limit": None,
    }
    return inputs.make_recipe(dataset, **(made_from | changes))


def line(number: int, **changes) -> dict:
    tokens = {"prefix": [1, 9], "chunks": [[3, 4], [0, number]], "question": [7, 8]}
    return {"id": f"r{number}", "answers": ["Åsa\u2028灯"], "tokens": tokens} | changes


@pytest.fixture
def path(tmp_path):
    path = inputs.item_path(tmp_path, recipe())
    inputs.write(path, [line(n) for n in range(4)], recipe(), **FOUND)
    return path


def test_what_was_written_comes_back(path):
    found = inputs.read(path, recipe())
    assert [item.row for item in found.items] == [line(n) for n in range(4)]
    assert [item.id for item in found.items] == ["r0", "r1", "r2", "r3"]
    item = found.items[3]
    assert item.prompt.ids == (1, 9, 3, 4, 0, 3, 7, 8)
    assert item.prompt.segments == ((0, 2), (2, 4), (4, 6), (6, 8))
    assert item.answers == ["Åsa\u2028灯"]
    assert found.sink == [1]
    assert found.settings == SETTINGS
    assert FOUND.items() <= found.meta.model_dump().items()
    name = f"2wikimqa-{recipe().key}"
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{name}.jsonl", f"{name}.meta.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": "s"},
        {"tokenizer": "u"},
        {"settings": replace(SETTINGS, chunk_size=5)},
        {"settings": replace(SETTINGS, max_length=99)},
        {"settings": replace(SETTINGS, chat=False)},
        {"generation": {"lengths": [300]}},
        {"sink": [2]},
        {"limit": 2},
        {"dataset": replace(DATASET, instruction="Read this.")},
        {"dataset": replace(DATASET, max_new_tokens=33)},
        {"dataset": replace(DATASET, metric="rouge_l")},
    ],
)
def test_whatever_items_are_made_from_is_in_their_address(tmp_path, changes):
    assert recipe(**changes).key != recipe().key
    assert inputs.item_path(tmp_path, recipe(**changes)) != inputs.item_path(tmp_path, recipe())


def test_the_code_that_splits_is_in_the_address(monkeypatch):
    monkeypatch.setattr(inputs, "code_digest", lambda *modules: "other")
    other = recipe()
    monkeypatch.undo()
    assert other.key != recipe().key


@pytest.mark.parametrize("suffix", [".jsonl", ".meta.json"])
def test_both_files_are_needed(path, suffix):
    path.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError):
        inputs.read(path, recipe())


@pytest.mark.parametrize("change", ["appended", "cut", "edited", "reordered", "emptied"])
def test_a_file_that_changed_breaks_its_seal(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "appended": [*lines, lines[0]],
        "cut": lines[:-1],
        "edited": [lines[0].replace(b"3", b"5", 1), *lines[1:]],
        "reordered": lines[::-1],
        "emptied": [],
    }
    path.write_bytes(b"".join(changed[change]))
    with pytest.raises(UserError, match="not what its sidecar describes"):
        inputs.read(path, recipe())


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 0}', "\0\0", "NaN"])
def test_a_sidecar_that_is_none_is_damaged(path, content):
    inputs.meta_path(path).write_text(content)
    with pytest.raises(UserError, match="damaged"):
        inputs.read(path, recipe())


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("rows"),
        lambda meta: meta.update(rows=5),
        lambda meta: meta["recipe"].pop("sink"),
        lambda meta: meta["recipe"]["settings"].update(chunk_size=5),
        lambda meta: meta.update(is_sampel=meta.pop("is_sample")),
        lambda meta: meta.pop("digest"),
    ],
)
def test_an_edited_sidecar_is_damaged(path, change):
    sidecar = inputs.meta_path(path)
    meta = json.loads(sidecar.read_text(encoding="utf-8"))
    change(meta)
    sidecar.write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        inputs.read(path, recipe())


def test_a_sidecar_of_another_version_names_the_field(path):
    sidecar = inputs.meta_path(path)
    meta = json.loads(sidecar.read_text(encoding="utf-8"))
    meta = {key: value for key, value in meta.items() if key not in ("digest", "truncated")}
    sidecar.write_text(json.dumps(seal(meta)), encoding="utf-8")
    with pytest.raises(UserError, match="truncated: Field required"):
        inputs.read(path, recipe())


def test_inputs_under_another_name_are_refused(path, tmp_path):
    other = recipe(limit=2)
    for suffix in (".jsonl", ".meta.json"):
        path.with_suffix(suffix).rename(inputs.item_path(tmp_path, other).with_suffix(suffix))
    with pytest.raises(UserError, match="something else than its name says"):
        inputs.read(inputs.item_path(tmp_path, other), other)


def test_new_inputs_with_an_old_sidecar_are_refused(path):
    """The sidecar comes last: a run killed between the two files leaves no valid pair."""
    old = inputs.meta_path(path).read_bytes()
    inputs.write(path, [line(n) for n in range(5)], recipe(), **FOUND)
    inputs.meta_path(path).write_bytes(old)
    with pytest.raises(UserError, match="sidecar"):
        inputs.read(path, recipe())


def test_the_fingerprint_is_over_all_that_is_read_and_scored(path):
    first = inputs.read(path, recipe()).fingerprint()
    assert inputs.read(path, recipe()).fingerprint() == first
    tokens = {"prefix": [1, 9], "chunks": [[3, 4], [0, 6]], "question": [7, 8]}
    moved = {"prefix": [1, 9], "chunks": [[3], [4, 0, 3]], "question": [7, 8]}
    for changes in (
        {"answers": ["b"]},
        {"id": "x"},
        {"tokens": tokens},
        {"tokens": moved},
        {"all_classes": ["b"]},
    ):
        rows = [*(line(n) for n in range(3)), line(3, **changes)]
        inputs.write(path, rows, recipe(), **FOUND)
        assert inputs.read(path, recipe()).fingerprint() != first
    inputs.write(path, [line(n) for n in range(3)], recipe(), **FOUND)
    assert inputs.read(path, recipe()).fingerprint() != first


def test_a_sample_carries_its_note(path):
    assert inputs.read(path, recipe()).note is None
    inputs.write(path, [line(0)], recipe(), **{**FOUND, "is_sample": True})
    note = inputs.read(path, recipe()).note
    assert note is not None
    assert "NOT THE BENCHMARK" in note
    assert "2wikimqa" in note


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["../../etc", "a/b c", "Å"], ["etc", "a-b-c", "2"]),
        ([7, "", "..", None], ["7", "1", "2", "None"]),
        (["x" * 200], ["x" * 80]),
    ],
)
def test_ids_become_folder_names(raw, safe):
    assert inputs.safe_ids(raw) == safe


@pytest.mark.parametrize(
    "raw",
    [
        ["a", "a-2", "a"],
        ["a", "a", "a-2"],
        ["x" * 90 + "1", "x" * 90 + "2", "x" * 90],
        ["é", "0"],
        ["A", "a"],
        ["0", "", "1", ""],
    ],
)
def test_no_two_items_share_a_folder(raw):
    names = inputs.safe_ids(raw)
    assert len(set(names)) == len(raw)


def test_the_file_is_readable_json_lines(path):
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1]):
        assert json.loads(text) == line(number)
