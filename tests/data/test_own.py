"""Rows from files of one's own: the shapes that data sets have, and what is said of bad ones."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from data import datasets
from data.request import Request
from data.row import Row, Rows
from data.rows import load_rows
from data.segments import Splitter, Splitting
from data.sources.own import OwnOptions
from models.errors import UserError
from models.load.tokenizer import encode, frame
from tests.conftest import build
from tests.stages.harness import make_tokenizer

PLAIN = [
    {
        "documents": [f"Tower {n} is old.", "The lake is near Orsel.", f"Ilka built {n} bridges."],
        "question": f"How many bridges did Ilka build, in story {n}?",
        "answer": str(n),
    }
    for n in range(1, 6)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(place: Path, limit: int | None = None, **options: Any) -> Rows:
    (dataset,) = datasets.expand(str(place), OwnOptions(**options))
    return load_rows(dataset, Request(measure=lambda row: 0, room=0, limit=limit))


def rows_of(place: Path, **options: Any) -> list[Row]:
    return load(place, **options).rows


def refused(place: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def comma_separated(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def documents(row: Row) -> list[str]:
    return [text.rstrip("\n") for text in row.documents]


def test_five_rows_of_documents_question_and_answer(tmp_path):
    found = load(jsonl(tmp_path / "my.jsonl", PLAIN))
    assert [documents(row) for row in found.rows] == [row["documents"] for row in PLAIN]
    assert [row.question for row in found.rows] == [row["question"] for row in PLAIN]
    assert [row.answers for row in found.rows] == [[row["answer"]] for row in PLAIN]
    assert [row.id for row in found.rows] == ["1", "2", "3", "4", "5"]
    assert found.source == "file"
    assert found.where == f"{tmp_path / 'my.jsonl'} (question, documents, answer)"
    assert (found.available, found.is_sample) == (5, False)
    assert found.rows[0].context == "\n\n".join(PLAIN[0]["documents"])
    words = " ".join([PLAIN[0]["question"], *PLAIN[0]["documents"], "1"]).split()
    assert found.rows[0].length == len(words)


@pytest.mark.parametrize("chunking", ["token", "passage"])
def test_every_document_becomes_chunks_of_its_own(tmp_path, chunking):
    (dataset,) = datasets.expand(str(jsonl(tmp_path / "my.jsonl", PLAIN)))
    tokenizer = make_tokenizer()
    framing = frame(tokenizer, build("llama").config, True)
    splitter = Splitter(dataset, tokenizer, framing, Splitting(chunking, 5, 10_000, True))
    found = load_rows(dataset, Request(measure=splitter.measure, room=10_000))
    for row, told in zip(found.rows, PLAIN, strict=True):
        prompt, lost = splitter.split(row)
        prefix, *chunks, question = [
            tokenizer.decode(prompt.ids[slice(*span)]) for span in prompt.segments
        ]
        first, second, third = told["documents"]
        expected = [f"{first}\n\n", f"{second}\n\n", third]
        if chunking == "passage":
            assert chunks == expected
        else:
            pieces = [encode(tokenizer, text) for text in expected]
            cut = [ids[at : at + 5] for ids in pieces for at in range(0, len(ids), 5)]
            assert [list(prompt.ids[slice(*span)]) for span in prompt.segments[1:-1]] == cut
        assert prefix.endswith("The following are given passages.\n")
        assert f"Question: {told['question']}\nAnswer:" in question
        assert (len(prompt), lost) == (splitter.measure(row), 0)


def test_one_context_is_cut_at_its_paragraphs_where_passages_are_asked_for(tmp_path):
    text = "One is\nshort.\n\nTwo follows.\n\n\n  Three ends."
    place = jsonl(tmp_path / "my.jsonl", [{"context": text, "question": "Which?"}])
    (dataset,) = datasets.expand(str(place))
    (row,) = rows_of(place)
    assert (row.context, row.documents, row.answers) == (text, (), [])
    tokenizer = make_tokenizer()
    framing = frame(tokenizer, build("llama").config, True)
    splitter = Splitter(dataset, tokenizer, framing, Splitting("passage", 5, 10_000, True))
    prompt = splitter.prompt(row)
    chunks = [tokenizer.decode(prompt.ids[slice(*span)]) for span in prompt.segments[1:-1]]
    assert chunks == ["One is\nshort.\n\n", "Two follows.\n\n\n  Three ends."]


SHAPES = {
    "SQuAD": (
        {
            "id": "56be",
            "title": "Normans",
            "context": "Normandy is in France.",
            "question": "Where is Normandy?",
            "answers": {"text": ["France", "in France", "France"], "answer_start": [15, 12, 15]},
        },
        "Normandy is in France.",
        ["France", "in France"],
        "56be",
    ),
    "HotpotQA on the hub": (
        {
            "id": "5a7a",
            "question": "Who wrote Ux?",
            "answer": "Anna Ek",
            "supporting_facts": {"title": ["Ux"], "sent_id": [1]},
            "context": {
                "title": ["Ux", "Uy"],
                "sentences": [["Ux is a song.", " Anna Ek wrote it."], ["Uy is a hill."]],
            },
        },
        ["Ux\nUx is a song. Anna Ek wrote it.", "Uy\nUy is a hill."],
        ["Anna Ek"],
        "5a7a",
    ),
    "MuSiQue": (
        {
            "id": "2hop",
            "paragraphs": [
                {"idx": 0, "title": "Ux", "paragraph_text": "Ux is a song.", "is_supporting": True},
                {"idx": 1, "title": "", "paragraph_text": "Uy is a hill.", "is_supporting": False},
            ],
            "question": "What is Ux?",
            "answer": "a song",
            "answer_aliases": ["song", "a song"],
            "answerable": True,
        },
        ["Ux\nUx is a song.", "Uy is a hill."],
        ["a song", "song"],
        "2hop",
    ),
    "RAGBench": (
        {
            "id": "358",
            "question": "What is Ux?",
            "documents": ["Ux is a song.", "  ", "Uy is a hill."],
            "response": "Ux is a song.",
            "documents_sentences": [[["0a", "Ux is a song."]], [], [["1a", "Uy is a hill."]]],
        },
        ["Ux is a song.", "Uy is a hill."],
        ["Ux is a song."],
        "358",
    ),
    "MS MARCO": (
        {
            "query_id": 9,
            "query": "what is ux",
            "answers": ["A song."],
            "passages": {
                "is_selected": [1, 0],
                "passage_text": ["Ux is a song.", "Uy is a hill."],
                "url": ["u", "v"],
            },
        },
        ["Ux is a song.", "Uy is a hill."],
        ["A song."],
        "1",
    ),
    "LongBench": (
        {
            "input": "What is Ux?",
            "context": "Passage 1:\nUx is a song.",
            "answers": ["a song", "song"],
            "length": 9,
            "dataset": "x",
            "language": "en",
            "all_classes": None,
            "_id": "b7",
        },
        "Passage 1:\nUx is a song.",
        ["a song", "song"],
        "b7",
    ),
    "titles and texts": (
        {"Question": "What is Ux?", "ctxs": [{"title": "Ux", "text": "A song."}], "ANSWERS": None},
        ["Ux\nA song."],
        [],
        "1",
    ),
    "nothing but text": (
        {"question": {"text": "What is Ux?"}, "passage": "Ux is a song.", "answer": True},
        "Ux is a song.",
        ["yes"],
        "1",
    ),
}
HOTPOTQA_FILE = {
    "_id": "5a7b",
    "question": "Who wrote Ux?",
    "answer": "Anna Ek",
    "context": [["Ux", ["Ux is a song.", " Anna Ek wrote it."]], ["Uy", ["Uy is a hill."]]],
}
SHAPES["HotpotQA's own file"] = (HOTPOTQA_FILE, *SHAPES["HotpotQA on the hub"][1:3], "5a7b")
ONLY_JSON = "HotpotQA's own file"  # Arrow has no lists of mixed types


@pytest.mark.parametrize("form", ["jsonl", "json", "one object", "lines", "parquet", "csv"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_data_sets_have(tmp_path, shape, form):
    told, expected, answers, name = SHAPES[shape]
    path = tmp_path / f"my.{form if form in ('jsonl', 'parquet', 'csv') else 'json'}"
    if form == "parquet":
        if shape == ONLY_JSON:
            pytest.skip("no such list in Arrow")
        parquet(path, [told])
    elif form == "csv":
        if shape == "nothing but text":
            pytest.skip("a CSV has no truth values")
        cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
        comma_separated(path, [{k: "" if v == "null" else v for k, v in cells.items()}])
    elif form == "json":
        path.write_text(json.dumps([told], indent=1))
    elif form == "one object":
        path.write_text(json.dumps({"version": "1", "data": [told]}))
    else:
        jsonl(path, [told, told] if form == "lines" else [told])
    row = rows_of(path)[0]
    assert documents(row) == ([] if isinstance(expected, str) else expected)
    assert row.context == (expected if isinstance(expected, str) else "\n\n".join(expected))
    assert row.answers == answers
    assert row.id == ("1" if form == "lines" else name)  # an id that occurs twice is none
    assert row.question.lower() in (
        "where is normandy?",
        "who wrote ux?",
        "what is ux?",
        "what is ux",
    )


@pytest.mark.parametrize(
    ("end", "pack"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_packed_files_are_read_and_an_edit_of_them_seen(tmp_path, form, end, pack):
    path, packed = tmp_path / f"my.{form}", tmp_path / f"my.{form}{end}"
    for question in ("Who?", "When?"):
        row = {"question": question, "context": "Ilka, in 1950."}
        if form == "csv":
            comma_separated(path, [row])
        else:
            path.write_text(json.dumps([row] if form == "json" else row))
        packed.write_bytes(pack(path.read_bytes()))
        assert [row.question for row in rows_of(packed)] == [question]
    packed.write_bytes(packed.read_bytes()[:-9])
    assert "is damaged or cut short" in refused(packed)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_an_edited_cell_is_seen(tmp_path, form):
    """Of the same length, and with the file's old time: no trace but the bytes."""
    path = tmp_path / f"my.{form}"
    for year in ("1950", "1951", "1950"):
        row = {"question": "When?", "context": f"It fell in {year}.", "answer": year}
        if form == "parquet":
            parquet(path, [row])
        elif form in ("csv", "tsv"):
            comma_separated(path, [row], delimiter="\t" if form == "tsv" else ",")
        else:
            path.write_text(json.dumps([row] if form == "json" else row))
        os.utime(path, (10**9, 10**9))
        (found,) = rows_of(path)
        assert (found.context, found.answers) == (f"It fell in {year}.", [year])


def test_nothing_is_left_in_the_cache_nor_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    rows_of(parquet(tmp_path / "my.parquet", [{"question": "Who?", "context": "Ilka."}]))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_answers_stay_as_they_are_written(tmp_path, form):
    """Typed by their looks, dates turn into timestamps, 007 into 7 and None into nothing."""
    answers = ["1950-01-02", "1951-03-04", "007", "1.50", "None", "NA", "true", "1e3", "null"]
    rows = [{"question": "When?", "context": "Long ago.", "answer": text} for text in answers]
    path = tmp_path / f"my.{form}"
    if form == "csv":
        comma_separated(path, rows)
    else:
        path.write_text(json.dumps(rows)) if form == "json" else jsonl(path, rows)
    assert [row.answers for row in rows_of(path)] == [[text] for text in answers]


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        (None, []),
        (float("nan"), []),
        ("", []),
        ([], []),
        ([None, "a", ""], ["a"]),
        (5, ["5"]),
        (5.0, ["5"]),
        (2.5, ["2.5"]),
        (2**60, [str(2**60)]),
        (False, ["no"]),
        ([1, "one", 1], ["1", "one"]),
        ({"text": [], "answer_start": []}, []),
        ({"text": "a"}, ["a"]),
        ({"value": "a", "aliases": ["b", "a"], "normalized_value": "A"}, ["a", "b"]),
        ([{"text": "a", "tokens": ["a"]}, {"text": "b", "tokens": ["b"]}], ["a", "b"]),
        ("[1, 2]", ["[1, 2]"]),
    ],
)
def test_answers_in_a_json_cell(tmp_path, cell, answers):
    row = {"question": "Who?", "context": "Ilka.", "answers": cell}
    assert rows_of(jsonl(tmp_path / "my.jsonl", [row]))[0].answers == answers


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("", []),
        ("NaN", []),
        ("nan", []),
        ('["a", "b"]', ["a", "b"]),
        ("['a', \"b's\"]", ["a", "b's"]),
        ("['a','b']", ["a", "b"]),
        ("[]", []),
        ("{'text': ['a'], 'answer_start': [3]}", ["a"]),
        ("[sic] a", ["[sic] a"]),
        ("{x}", ["{x}"]),
    ],
)
def test_answers_in_a_cell_of_a_csv(tmp_path, cell, answers):
    row = {"question": "Who?", "context": "Ilka.", "answers": cell}
    assert rows_of(comma_separated(tmp_path / "my.csv", [row]))[0].answers == answers


@pytest.mark.parametrize(
    "cell", ["['a' 'b']", "['a'\n 'b']", "{'text': array(['a'], dtype=object)}", '["a", b]']
)
def test_a_printed_list_that_cannot_be_read_back_is_told(tmp_path, cell):
    """numpy prints ['a' 'b'], which Python reads as the one text 'ab'."""
    row = {"question": "Who?", "documents": cell, "answer": "x"}
    path = comma_separated(tmp_path / "my.csv", [row | {"documents": "['a', 'b']"}, row])
    assert f"{path}, row 2: documents looks like a list, and is no JSON" in refused(path)


def test_a_csv_with_documents_longer_than_csv_expects(tmp_path):
    texts = ["one, two\nthree " * 20_000, "and \u2028 four"]
    row = {"question": "Who?", "documents": json.dumps(texts), "answer": "x"}
    (found,) = rows_of(comma_separated(tmp_path / "my.csv", [row]))
    assert documents(found) == [text.strip() for text in texts]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": None, "context": "x"}, "line 2: question is empty; every row needs a quest"),
        ({"question": " ", "context": "x"}, "line 2: question is empty"),
        ({"context": "x"}, "line 2: question is empty"),
        ({"question": ["a"], "context": "x"}, "line 2: question is a list where a text belongs"),
        ({"question": "a", "context": None}, "line 2: context is empty; every row needs a docum"),
        ({"question": "a", "context": []}, "line 2: context is empty"),
        ({"question": "a", "context": ["", None]}, "line 2: context is empty"),
        ({"question": "a", "context": 7}, "line 2: context is a int where documents belong"),
        ({"question": "a", "context": [["x"]]}, "line 2: context has a document that is a list"),
        ({"question": "a", "context": [{"t": 1}]}, "line 2: context has a document without a text"),
        (
            {"question": "a", "context": {"title": ["x"], "sentences": [["a"], ["b"]]}},
            "line 2: context has 1 titles for 2 texts",
        ),
        ({"question": "a", "context": "x", "answer": {"k": "v"}}, "line 2: answer is a mapping of"),
    ],
)
def test_a_bad_cell_is_told_with_its_file_row_and_column(tmp_path, row, message):
    good = {"question": "Who?", "context": "Ilka.", "answer": "Ilka"}
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    assert f"{path}, {message}" in refused(path)
    assert len(load(path, limit=1).rows) == 1


def test_a_date_of_a_parquet_file_is_no_text(tmp_path):
    from datetime import datetime

    row = {"question": "When?", "context": "Then.", "answer": datetime(1950, 1, 2)}
    path = parquet(tmp_path / "my.parquet", [row])
    assert "row 1: answer is a datetime where a text belongs" in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.jsonl", b"", "holds no rows"),
        ("my.jsonl", b'{"question": "a"\n', "line 1: not JSON"),
        ("my.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("my.jsonl", b'{"a": "\xff"}\n', "line 1: not UTF-8"),
        ("my.json", b"", "not JSON, or cut short"),
        ("my.json", b"[1]", "row 1: not a JSON object"),
        ("my.json", b"3", "neither a list of rows nor one row"),
        ("my.json", b"[]", "holds no rows"),
        ("my.json", b"\xff", "not UTF-8"),
        ("my.csv", b"", "holds no rows"),
        ("my.csv", b"question,context\n", "holds no rows"),
        ("my.csv", b"question,context\na,b,c\n", "row 1: 3 cells under 2 columns; put quotes"),
        ("my.csv", b"question,context\na,b\nc\n", "row 2: 1 cells under 2 columns"),
        ("my.csv", b'question,context\na,"b\n', "line 2: unexpected end of data"),
        ("my.csv", b"question,question\na,b\n", "two columns are called 'question'"),
        ("my.csv", b"question,context\na,\xff\n", "not UTF-8"),
        ("my.parquet", b"PAR1", "cannot be read as Parquet"),
        ("my.parquet", b"", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, capfd, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_what_is_nested_too_deeply_is_told_in_one_line(tmp_path):
    path = tmp_path / "my.json"
    path.write_text("[" * 200_000)
    assert "not JSON, or cut short (nested too deeply); mend the file" in refused(path)
    for depth in (600, 200_000):  # JSON's reader goes down to the one, we do not
        cell = "[" * depth + "]" * depth
        path.write_text(f'{{"question": "Who?", "context": "Ilka.", "answer": {cell}}}')
        assert "nested too deeply" in refused(path)


def test_a_cell_of_a_csv_that_is_all_brackets_is_a_text(tmp_path):
    row = {"question": "Who?", "context": "[" * 200_000}
    assert rows_of(comma_separated(tmp_path / "my.csv", [row]))[0].context == row["context"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"q": "Who?", "context": "Ilka.", "answer": "x"},
            "has no question column that we know; its columns: q, context, answer; name one "
            "with QUESTION=",
        ),
        (
            {"question": "Who?", "story": "Ilka."},
            "no documents column .* question, story;.* DOCU",
        ),
        (
            {"question": "Who?", "query": "who", "context": "Ilka."},
            "the question may be in question or query; name the column with QUESTION=",
        ),
        ({"question": "Who?", "context": "x", "docs": ["y"]}, "in context or docs.* DOCUMENTS="),
        ({"question": "Who?", "context": "x", "answer": "y", "response": "z"}, "ANSWERS="),
    ],
)
def test_missing_and_ambiguous_columns(tmp_path, row, message):
    path = jsonl(tmp_path / "my.jsonl", [row])
    with pytest.raises(UserError, match=message):
        load(path)


def test_columns_that_are_named(tmp_path):
    row = {"q": "Who?", "query": "no", "input": "no", "story": ["Ilka."], "Gold Answer": "Ilka"}
    path = jsonl(tmp_path / "my.jsonl", [row])
    (found,) = rows_of(path, question="q", documents="STORY", answers="gold_answer")
    assert (found.question, found.context, found.answers) == ("Who?", "Ilka.", ["Ilka"])
    told = refused(path, question="qq")
    assert f"QUESTION=qq is no column of {path}; its columns: q, query, input, story" in told


def test_a_metric_that_is_named_needs_answers(tmp_path):
    path = jsonl(tmp_path / "my.jsonl", [{"question": "Who?", "context": "Ilka.", "gold": "x"}])
    assert rows_of(path)[0].answers == []
    assert rows_of(path, metric="none")[0].answers == []
    told = refused(path, metric="rougeL")
    assert "no column of answers to score with METRIC=rougeL; its columns: question" in told
    assert rows_of(path, metric="rougeL", answers="gold")[0].answers == ["x"]


def test_ids_are_the_rows_own_or_their_numbers_whatever_the_limit(tmp_path):
    def ids(column: str, *names: Any, limit: int | None = None) -> list[str]:
        rows = [{column: name, "question": "Who?", "context": "Ilka."} for name in names]
        return [row.id for row in load(jsonl(tmp_path / "my.jsonl", rows), limit).rows]

    assert ids("id", "a", "b", 7) == ["a", "b", "7"]
    assert ids("_id", "a", "b") == ["a", "b"]
    assert ids("ID", "a", "b") == ["a", "b"]
    assert ids("id", "a", "b", "a") == ["1", "2", "3"]
    assert ids("id", "a", "b", "a", limit=2) == ["1", "2"]
    assert ids("id", "a", None) == ["1", "2"]
    assert ids("id", 1.5, 2.5) == ["1", "2"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_folder_of_tables(tmp_path, form):
    write = jsonl if form == "jsonl" else parquet
    folder = tmp_path / "docs"
    (folder / "later").mkdir(parents=True)
    write(folder / f"b.{form}", [{"question": "Two?", "context": "b", "id": "x"}])
    write(folder / f"a.{form}", [{"question": "One?", "context": "a", "id": "y"}])
    write(folder / "later" / f"c.{form}", [{"question": "Three?", "context": "c", "answer": "c"}])
    (folder / ".hidden.jsonl").write_text("no JSON")
    found = load(folder)
    assert [row.question for row in found.rows] == ["One?", "Two?", "Three?"]
    assert [row.answers for row in found.rows] == [[], [], ["c"]]
    assert [row.id for row in found.rows] == ["1", "2", "3"]  # the third has no id of its own
    assert (found.source, found.available, found.where) == (
        "folder",
        3,
        f"{folder} (question, context, answer)",
    )


def corpus(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "more").mkdir(parents=True)
    for name, text in (
        ("b.txt", "B."),
        ("a.md", "A.\n"),
        ("more/c.txt", "C."),
        ("more/a.txt", "D."),
    ):
        (folder / name).write_text(text)
    (folder / "empty.txt").write_text(" \n")
    jsonl(folder / "questions.jsonl", rows)
    return folder


@pytest.mark.parametrize("cell", [None, "", []])
def test_all_texts_of_a_folder_serve_a_question_that_names_none(tmp_path, cell):
    for rows in ([{"question": "Who?"}], [{"question": "Who?", "file": cell}]):
        folder = corpus(tmp_path / str(len(rows[0])), rows)
        assert documents(rows_of(folder)[0]) == ["A.", "B.", "D.", "C."]


def test_questions_on_the_same_texts_share_one_copy(tmp_path):
    first, second = rows_of(corpus(tmp_path / "docs", [{"question": "A?"}, {"question": "B?"}]))
    assert first.context is second.context
    assert first.documents is second.documents


@pytest.mark.parametrize("column", ["file", "files", "documents", "File Name"])
@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("b.txt", ["B."]),
        ("b", ["B."]),
        ("more/a.txt", ["D."]),
        ("a.txt", ["D."]),
        (["more/c.txt", "b"], ["C.", "B."]),
        ("c.txt, a.md", ["C.", "A."]),
        ("c;b", ["C.", "B."]),
    ],
)
def test_a_question_names_its_texts(tmp_path, column, cell, expected):
    folder = corpus(tmp_path / "docs", [{"question": "Who?", column: cell, "answer": "x"}])
    assert documents(rows_of(folder)[0]) == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("d.txt", "file names 'd.txt', no text of"),
        ("b, d", "file names 'd', no text of"),
        ("a", "file names 'a', and several texts are called so"),
        ([3], "file holds a int, no file's name"),
        ("empty.txt", "file is empty; every row needs a document"),
    ],
)
def test_a_name_that_no_text_has(tmp_path, cell, message):
    folder = corpus(tmp_path / "docs", [{"question": "Who?", "file": cell}])
    assert f"questions.jsonl, line 1: {message}" in refused(folder)


def test_documents_are_not_passed_over_for_a_readme(tmp_path):
    """A copy of a hub's repository has a README.md, which must not become every row's document."""
    folder = tmp_path / "copy"
    jsonl(folder / "train.jsonl", [{"question": "Who?", "context": "Ilka."}])
    (folder / "README.md").write_text("A data set.")
    told = refused(folder)
    assert "context names 'Ilka.', no text of" in told
    assert "name their file itself as DATASET=" in told
    assert rows_of(folder / "train.jsonl")[0].context == "Ilka."


def test_places_that_do_not_serve(tmp_path):
    (tmp_path / "note.txt").write_text("A.")
    assert "is no table" in refused(tmp_path / "note.txt")
    assert "holds texts and no file of questions" in refused(tmp_path)
    (tmp_path / "none").mkdir()
    assert "holds neither questions nor texts" in refused(tmp_path / "none")
    for name in ("q.jsonl", "r.csv"):
        (tmp_path / name).write_text("{}")
    assert "holds texts and 2 tables (q.jsonl, r.csv); keep one" in refused(tmp_path)
    assert "no such file or folder" in refused(tmp_path / "absent.jsonl")


def test_squads_own_nested_file(tmp_path):
    asked = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Mara", "answer_start": 0}]},
        {"id": "b", "question": "When?", "answers": [], "is_impossible": True},
    ]
    other = {"id": "c", "question": "Where?", "answers": [{"text": "There", "answer_start": 4}] * 2}
    articles = [
        {"title": "T", "paragraphs": [{"context": "Mara came.", "qas": asked}]},
        {"title": "U", "paragraphs": [{"context": "Not There.", "qas": [other]}]},
    ]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    rows = rows_of(path)
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert [row.context for row in rows] == ["Mara came.", "Mara came.", "Not There."]
    assert [row.answers for row in rows] == [["Mara"], [], ["There"]]
