"""The inputs file and its seal."""

from __future__ import annotations

import json

import pytest

from data import inputs
from models.errors import UserError

SETTINGS = {"chunking": "token", "chunk_size": 4, "max_length": 100, "chat": True}
META = {
    "dataset": "2wikimqa",
    "version": 1,
    "tokenizer": "t",
    "settings": SETTINGS,
    "sink": [1],
    "is_sample": False,
    "available": 9,
}


def line(number: int, **changes) -> dict:
    tokens = {"prefix": [1, 9], "chunks": [[3, 4], [0, number]], "question": [7, 8]}
    return {"id": f"r{number}", "answers": ["Åsa\u2028灯"], "tokens": tokens} | changes


@pytest.fixture
def path(tmp_path):
    path = inputs.item_path(tmp_path, "model", "2wikimqa")
    inputs.write(path, [line(n) for n in range(4)], META)
    return path


def test_what_was_written_comes_back(path):
    found = inputs.read(path, "make chunk")
    assert [item.row for item in found.items] == [line(n) for n in range(4)]
    assert [item.id for item in found.items] == ["r0", "r1", "r2", "r3"]
    item = found.items[3]
    assert item.prompt.ids == (1, 9, 3, 4, 0, 3, 7, 8)
    assert item.prompt.segments == ((0, 2), (2, 4), (4, 6), (6, 8))
    assert item.answers == ["Åsa\u2028灯"]
    assert found.sink == [1]
    assert vars(found.settings) == SETTINGS
    assert META.items() <= found.meta.items()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "2wikimqa.jsonl",
        "2wikimqa.meta.json",
    ]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (4, 4), (50, 4), (None, 4)])
def test_limit(path, limit, count):
    assert len(inputs.read(path, "make chunk", limit).items) == count


@pytest.mark.parametrize("name", ["2wikimqa.jsonl", "2wikimqa.meta.json"])
def test_both_files_are_needed(path, name):
    (path.parent / name).unlink()
    with pytest.raises(UserError, match="missing or damaged; build it: make chunk"):
        inputs.read(path, "make chunk")


@pytest.mark.parametrize("change", ["appended", "cut", "edited", "reordered"])
def test_a_file_that_changed_breaks_its_seal(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "appended": [*lines, lines[0]],
        "cut": lines[:-1],
        "edited": [lines[0].replace(b"3", b"5", 1), *lines[1:]],
        "reordered": lines[::-1],
    }
    path.write_bytes(b"".join(changed[change]))
    with pytest.raises(UserError, match="not what its sidecar describes"):
        inputs.read(path, "make chunk", 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 0}'])
def test_a_sidecar_of_something_else_is_none(path, content):
    inputs.meta_path(path).write_text(content)
    assert inputs.read_meta(path) is None


def test_new_inputs_with_an_old_sidecar_are_refused(path, tmp_path):
    """The sidecar comes last: a run killed between the two files leaves no valid pair."""
    old = inputs.meta_path(path).read_bytes()
    inputs.write(path, [line(n) for n in range(5)], META)
    inputs.meta_path(path).write_bytes(old)
    with pytest.raises(UserError, match="sidecar"):
        inputs.read(path, "make chunk")


def test_the_fingerprint_is_over_ids_tokens_and_answers(path):
    first = inputs.read(path, "").fingerprint()
    assert inputs.read(path, "").fingerprint() == first
    assert inputs.read(path, "", 3).fingerprint() != first
    tokens = {"prefix": [1, 9], "chunks": [[3, 4], [0, 6]], "question": [7, 8]}
    for changes in ({"answers": ["b"]}, {"id": "x"}, {"tokens": tokens}):
        inputs.write(path, [*(line(n) for n in range(3)), line(3, **changes)], META)
        assert inputs.read(path, "").fingerprint() != first
    inputs.write(path, [line(n, question="told otherwise") for n in range(4)], META)
    assert inputs.read(path, "").fingerprint() == first


def test_a_sample_carries_its_note(path):
    assert inputs.read(path, "").note is None
    inputs.write(path, [line(0)], META | {"is_sample": True})
    note = inputs.read(path, "").note
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
