"""What DATASET= may name beside datasets, and the entry that a file of one's own becomes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data import datasets
from data.sources.own import OwnOptions, entry
from models.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("my.jsonl", "a,b.jsonl", "two words.csv", "don't.json", "2wikimqa", "docs/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def places(text: str) -> list[str]:
    """Names of datasets; of files, where they lie."""
    found = datasets.expand(text)
    return [Path(d.parameters["place"]).name if d.source == "own" else d.name for d in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my.jsonl", ["my.jsonl"]),
        ("./my.jsonl", ["my.jsonl"]),
        ("a,b.jsonl", ["a,b.jsonl"]),
        ("needle,a,b.jsonl,my.jsonl", ["needle", "a,b.jsonl", "my.jsonl"]),
        ("my.jsonl needle, a,b.jsonl", ["my.jsonl", "needle", "a,b.jsonl"]),
        ("two words.csv", ["two words.csv"]),
        ("'two words.csv',needle", ["two words.csv", "needle"]),
        ("needle two\\ words.csv", ["needle", "two words.csv"]),
        ("don't.json", ["don't.json"]),
        ("docs", ["docs"]),
        ("docs/", ["docs"]),
        ("absent.jsonl.gz absent.PARQUET", ["absent.jsonl.gz", "absent.PARQUET"]),
        ("2wikimqa", ["2wikimqa"]),
        ("my.jsonl my.jsonl ./my.jsonl", ["my.jsonl"]),
        ("needle", ["needle"]),
    ],
)
def test_lists_of_datasets_and_files(text, expected):
    assert places(text) == expected


def test_a_known_name_is_never_a_file():
    assert datasets.expand("2wikimqa")[0].source == "longbench"  # a file is called so here
    assert not datasets.is_own("2wikimqa")
    assert not datasets.is_own("all")
    assert not datasets.is_own("ruler")
    assert not datasets.is_own("")
    assert not datasets.is_own("nothing")
    assert all(map(datasets.is_own, ("./2wikimqa", "my.jsonl", "docs", "hub:a/b", "no.csv.gz")))


@pytest.mark.parametrize(
    "text", ["my.jsonl", "two words.csv", "don't.json", "a,b.jsonl", "hub:a/b:c", "needle"]
)
def test_a_dataset_is_named_again_as_it_is_spelled(text):
    (dataset,) = datasets.expand(text)
    (said,) = shlex.split(datasets.spelled(dataset))  # what a shell makes of it
    assert datasets.expand(said) == [dataset]
    assert datasets.expand(datasets.spelled(dataset)) == [dataset]


def test_slow_libraries_are_imported_where_they_are_used():
    code = (
        "import sys, data.datasets, data.rows, eval.metrics.scores; "
        "print({name.split('.')[0] for name in sys.modules})"
    )
    root = Path(datasets.__file__).parent.parent
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert "huggingface_hub" in found.stdout
    for name in ("datasets", "pandas", "pyarrow", "rouge_score", "nltk", "jieba", "torch"):
        assert f"'{name}'" not in found.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my.josnl", "unknown dataset 'my.josnl': there is no such file or folder"),
        ("absent/folder", "unknown dataset 'absent/folder': there is no such file or folder"),
        ("2wikimq", "unknown dataset '2wikimq': did you mean 2wikimqa"),
        ("'my.jsonl", "a quotation mark is not closed"),
        ("", "no dataset named"),
        (" , ", "no dataset named"),
    ],
)
def test_what_is_neither_is_told(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        datasets.expand(text)


@pytest.mark.parametrize("option", ["question", "documents", "answers", "prompt", "metric"])
def test_an_option_that_no_dataset_takes_is_told(option):
    said = OwnOptions(**{option: "{context}{question}"})
    with pytest.raises(UserError, match=f"{option.upper()}= is for files of your own"):
        datasets.expand("2wikimqa needle", said)
    assert len(datasets.expand("2wikimqa my.jsonl", said)) == 2
    assert datasets.expand("2wikimqa", OwnOptions(max_new_tokens=3)) == datasets.expand("2wikimqa")


def test_a_name_tells_the_file_and_where_it_lies(here):
    name = entry("my.jsonl").name
    assert re.fullmatch(r"my-[0-9a-f]{8}", name)
    assert entry(str(here / "my.jsonl")).name == name
    assert entry("docs/../my.jsonl", OwnOptions(question="q", metric="rouge1")).name == name
    assert entry("docs/my.jsonl").name != name
    assert re.fullmatch(r"two-words-[0-9a-f]{8}", entry("two words.csv").name)
    assert re.fullmatch(r"own-[0-9a-f]{8}", entry("灯.csv").name)
    on_hub = entry("hub:owner/n_v1.1::test").name
    assert re.fullmatch(r"owner-n_v1-1-test-[0-9a-f]{8}", on_hub)
    assert shlex.quote(name) == name


def test_what_stands_in_the_entry_by_default_and_when_named():
    plain = entry("my.jsonl")
    assert (plain.source, plain.suite, plain.chat, plain.first_line) == ("own", "", True, False)
    assert (plain.max_new_tokens, plain.metric, plain.version) == (64, "qa_f1", 1)
    told = entry("my.jsonl", OwnOptions(metric="rougeL", max_new_tokens=7))
    assert (told.max_new_tokens, told.metric) == (7, "rougeL")
    assert entry("my.jsonl", OwnOptions(metric="none")).metric is None
    with pytest.raises(UserError, match="MAX_NEW_TOKENS=0 must be at least 1"):
        entry("my.jsonl", OwnOptions(max_new_tokens=0))
    for metric in ("classification", "retrieval", "retrieval_zh"):
        with pytest.raises(UserError, match=f"METRIC={metric} needs what only LongBench's rows"):
            entry("my.jsonl", OwnOptions(metric=metric))
    asked = datasets.get("2wikimqa")
    assert plain.instruction == asked.instruction
    assert plain.ask("Who?") == asked.ask("Who?")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_prompt_of_ones_own(here, in_file):
    text = "Read {this}.\n{context}\nNow: {question}\nIn short:"
    if in_file:
        (here / "prompt.txt").write_text(text + "\n")
        said = "prompt.txt"
    else:
        said = text.replace("\n", "\\n")
    dataset = entry("my.jsonl", OwnOptions(prompt=said))
    assert dataset.instruction == "Read {this}.\n"
    assert dataset.ask("Who {x}?") == "\nNow: Who {x}?\nIn short:"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{context}", "it has 0 of {question}"),
        ("{question}", "it has 0 of {context}"),
        ("prompt.txt", "it has 0 of {context}"),
        ("{context} {context} {question}", "it has 2 of {context}"),
        ("{context} {question} {question}", "it has 2 of {question}"),
        ("{question} {context}", "put {question} after {context}"),
        ("{context} {question} {input}", "must not have {input}"),
        ("", "it has 0 of {context}"),
    ],
)
def test_a_prompt_without_its_places_is_told(text, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        entry("my.jsonl", OwnOptions(prompt=text))
    assert "\n" not in str(caught.value)


def test_a_prompt_file_that_is_no_text(here):
    (here / "prompt.txt").write_bytes(b"\xff{context}{question}")
    with pytest.raises(UserError, match="not UTF-8 text"):
        entry("my.jsonl", OwnOptions(prompt="prompt.txt"))


def test_an_entry_of_the_configuration_may_name_a_place(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        json.dumps(
            {
                "mine": {
                    "version": 2,
                    "source": "own",
                    "language": "auto",
                    "chat": True,
                    "instruction": "",
                    "question": "{input}",
                    "max_new_tokens": 4,
                    "metric": None,
                    "first_line": False,
                    "passage_pattern": None,
                    "parameters": {"place": "docs"},
                }
            }
        )
    )
    assert datasets.read_config(tmp_path)["mine"].metric is None
