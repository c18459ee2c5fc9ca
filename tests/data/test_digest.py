"""A source's digest changes whenever a row could, and with nothing else."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data import datasets
from data.dataset import Dataset
from data.request import Request
from data.rows import SOURCES, digest, load_rows
from data.sources import hotpotqa
from data.sources.own import OwnOptions
from tests.data.test_needle import prose

QUESTION = {
    "_id": "5a8b",
    "question": "Who wrote Ux?",
    "answer": "Anna Ek",
    "context": [["Ux", ["Ux is a song.", " Anna Ek wrote it."]], ["Uy", ["Uy is a hill."]]],
}


def request(**changes: Any) -> Request:
    def words(row: Any) -> int:
        return len(f"{row.context} {row.question}".split()) + 30

    return Request(measure=words, **{"room": 900, **changes})


def differs(before: tuple[Dataset, Request], after: tuple[Dataset, Request]) -> bool:
    """Whether the digests differ; rows that do must not have one digest."""
    ones, others = (load_rows(*asked).rows for asked in (before, after))
    changed = digest(*before) != digest(*after)
    assert changed or ones == others[: len(ones)] or others == ones[: len(others)]
    return changed


def test_every_source_has_one():
    for name in datasets.names():
        assert datasets.get(name).source in SOURCES
    assert all(callable(source.read) and callable(source.digest) for source in SOURCES.values())


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    row = {"question": "Who?", "query": "When?", "file": "a", "gold": "Ilka"}
    (folder / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    (folder / "a.txt").write_text("Ilka came.")
    return folder


def own(folder: Path, **options: Any) -> tuple[Dataset, Request]:
    return datasets.expand(str(folder), OwnOptions(question="question", **options))[0], request()


def test_own_files(mine):
    first = digest(*own(mine))
    os.utime(mine / "a.txt", (1, 1))
    assert digest(*own(mine)) == first
    assert digest(own(mine)[0], request(limit=1, room=5)) == first
    changes = {
        "a text": lambda: (mine / "a.txt").write_text("Ilka left."),
        "a text more": lambda: (mine / "b.txt").write_text("Ilka left."),
        "a text's name": lambda: (mine / "b.txt").rename(mine / "c.txt"),
        "the questions": lambda: (mine / "q.jsonl").write_text('{"question": "Who, then?"}\n'),
    }
    seen = {first}
    for change in changes.values():
        change()
        seen.add(digest(*own(mine)))
    assert len(seen) == 1 + len(changes)


@pytest.mark.parametrize(
    "options", [{"question": "query"}, {"answers": "gold"}, {"prompt": "{context} {question}"}]
)
def test_what_is_said_of_own_files(mine, options):
    told = datasets.expand(str(mine), OwnOptions(**{"question": "question", **options}))[0]
    assert digest(told, request()) != digest(*own(mine))


def longbench(folder: Path, packed: bool = False) -> tuple[Dataset, Request]:
    return datasets.get("trec"), request(longbench_dir=str(folder))


def test_longbench_is_its_file(tmp_path):
    row = {
        "input": "Q",
        "context": "C",
        "answers": ["Person"],
        "length": 3,
        "dataset": "trec",
        "language": "en",
        "all_classes": ["Person"],
        "_id": "a",
    }
    path = tmp_path / "trec.jsonl"
    path.write_text(json.dumps(row))
    first = digest(*longbench(tmp_path))
    assert digest(datasets.get("trec"), request(longbench_dir=str(tmp_path), limit=1)) == first
    (tmp_path / "lcc.jsonl").write_text("another task's")
    assert digest(*longbench(tmp_path)) == first
    path.write_text(json.dumps(row | {"all_classes": ["City"]}))
    assert digest(*longbench(tmp_path)) != first
    path.unlink()
    (tmp_path / "trec.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode(), mtime=0))
    assert digest(*longbench(tmp_path)) != first


def test_a_task_has_a_digest_of_its_own(tmp_path):
    for name in ("trec", "trec_e"):
        (tmp_path / f"{name}.jsonl").write_text("{}")
    asked = request(longbench_dir=str(tmp_path))
    assert digest(datasets.get("trec"), asked) != digest(datasets.get("trec_e"), asked)


def test_hotpotqa_is_its_pack(tmp_path, monkeypatch):
    pack = tmp_path / "hotpotqa.json"
    monkeypatch.setattr(hotpotqa, "pack_file", lambda name: pack)
    asked = datasets.get("hotpotqa_distractor"), request()
    pack.write_text(json.dumps([QUESTION]))
    first = digest(*asked)
    assert digest(*asked) == first
    pack.write_text(json.dumps([QUESTION | {"answer": "Ek"}]))
    assert digest(*asked) != first


@pytest.fixture
def tale(tmp_path) -> Path:
    folder = tmp_path / "tale"
    folder.mkdir()
    (folder / "tale.txt").write_text(prose(300))
    return folder


GENERATED = ["needle", "ruler_niah_single_2", "ruler_cwe", "ruler_qa_1"]


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({}, False),
        ({"limit": 2}, False),
        ({"seed": 1}, True),
        ({"lengths": (800,)}, True),
        ({"lengths": ()}, True),
        ({"room": 1000}, False),
        ({"longbench_dir": "/nowhere", "sample": False}, False),
    ],
)
def test_settings_of_generated_rows(tale, name, changes, changed):
    dataset = datasets.get(name)
    known = {"limit": 3, "lengths": (700,), "haystack": str(tale), "depths": (0.0, 50.0)}
    assert differs((dataset, request(**known)), (dataset, request(**known | changes))) is changed


@pytest.mark.parametrize(
    ("room", "changed"), [({"room": 800}, True), ({"room": 900, "limit": 1}, False)]
)
def test_the_room_counts_where_it_decides_the_lengths(tale, room, changed):
    dataset, asked = datasets.get("needle"), request(haystack=str(tale), limit=2)
    assert differs((dataset, asked), (dataset, request(haystack=str(tale), **room))) is changed


def test_depths_of_needles(tale):
    dataset, asked = datasets.get("needle"), request(haystack=str(tale), lengths=(700,))
    assert differs((dataset, replace(asked, depths=(0,))), (dataset, replace(asked, depths=(5,))))
    assert not differs(
        (dataset, replace(asked, depths=(5,))), (dataset, replace(asked, depths=(5.0,)))
    )


@pytest.mark.parametrize("name", ["needle", "ruler_niah_single_2"])
def test_an_edited_haystack_is_seen_in_the_same_process(tale, name):
    dataset, asked = datasets.get(name), request(haystack=str(tale), lengths=(700,), limit=2)
    rows, first = load_rows(dataset, asked).rows, digest(dataset, asked)
    (tale / "tale.txt").write_text(prose(300, seed=1))
    assert load_rows(dataset, asked).rows != rows
    assert digest(dataset, asked) != first


def test_a_haystack_counts_only_where_it_is_read(tale):
    dataset, asked = datasets.get("ruler_niah_single_1"), request(lengths=(700,), limit=2)
    assert not differs((dataset, asked), (dataset, replace(asked, haystack=str(tale))))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("needle", {"question": "\n{input}?"}),
        ("needle", {"instruction": "Read on and on and on.\n"}),
        ("ruler_cwe", {"parameters": {"generator": "cwe", "num_cw": 5}}),
        ("ruler_cwe", {"max_new_tokens": 20}),
    ],
)
def test_the_entry_of_generated_rows(tale, name, changes):
    dataset, asked = datasets.get(name), request(haystack=str(tale), lengths=(700,), limit=2)
    assert differs((dataset, asked), (replace(dataset, **changes), asked))


def test_files_of_rulers_own_generator(tmp_path):
    path = tmp_path / "niah_single_2_700.jsonl"
    path.write_text("{}")
    dataset, asked = datasets.get("ruler_niah_single_2"), request(ruler_dir=str(tmp_path))
    first = digest(dataset, asked)
    assert first != digest(dataset, request())
    path.write_text("{} ")
    second = digest(dataset, asked)
    path.rename(tmp_path / "niah_single_2_800.jsonl")
    assert len({first, second, digest(dataset, asked)}) == 3
