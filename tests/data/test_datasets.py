"""Dataset entries: the benchmark's own prompts, and clear words for a bad entry."""

import re
from pathlib import Path

import pytest
import yaml

from data import datasets
from eval.metrics import METRICS
from models.errors import UserError

_PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nThe following are given passages.\n{context}\n\nAnswer the question "
    "based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "Question: {input}\nAnswer:"
)
# From config/dataset2prompt.json of THUDM/LongBench.
OFFICIAL = {
    "2wikimqa": _PASSAGES,
    "hotpotqa": _PASSAGES,
    "musique": _PASSAGES,
    "hotpotqa_distractor": _PASSAGES,
    "multifieldqa_en": (
        "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following "
        "question based on the above text, only give me the answer and do not output any other "
        "words.\n\nQuestion: {input}\nAnswer:"
    ),
    "samsum": (
        "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"
        "{context}\n\n{input}"
    ),
    "multi_news": (
        "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
        "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"
    ),
}
ENTRY = {
    "version": 1,
    "source": "longbench",
    "language": "en",
    "chat": True,
    "instruction": "Read.\n",
    "question": "\n{input}",
    "max_new_tokens": 8,
    "metric": "qa_f1",
    "first_line": False,
    "passage_pattern": None,
}


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_prompt_is_the_benchmarks(name: str) -> None:
    row = {"context": "Some {braces} in\ncontext.", "input": "Who {wrote} it?"}
    dataset = datasets.get(name)
    expected = OFFICIAL[name].format(**row)
    assert dataset.instruction + row["context"] + dataset.ask(row["input"]) == expected


def test_lengths_chat_and_first_line_are_the_benchmarks() -> None:
    lengths = {"multifieldqa_en": 64, "samsum": 128, "multi_news": 512}
    for name in OFFICIAL:
        dataset = datasets.get(name)
        assert dataset.max_new_tokens == lengths.get(name, 32)
        assert dataset.first_line == (name == "samsum")
        assert dataset.chat == (name != "samsum")
        assert dataset.metric in METRICS


def test_passage_pattern_finds_passages() -> None:
    pattern = datasets.get("hotpotqa").passage_pattern
    assert pattern is not None
    text = "Passage 1:\nOne\nSee Passage 2: below.\nPassage 2:\nTwo"
    assert [m.start() for m in re.finditer(pattern, text, re.MULTILINE)] == [0, 37]


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown dataset '2wikiqa': did you mean 2wikimqa"):
        datasets.get("2wikiqa")
    with pytest.raises(UserError, match="choose from 2wikimqa, hotpotqa"):
        datasets.get("zzz")
    assert datasets.names() == sorted(datasets.names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrik": "qa_f1"}, "unknown key 'metrik'; did you mean 'metric'"),
        ({"version": None}, "version must be int"),
        ({"version": 0}, "version must be at least 1"),
        ({"chat": "yes"}, "chat must be bool"),
        ({"max_new_tokens": True}, "max_new_tokens must be int"),
        ({"source": "web"}, "source must be longbench or hotpotqa_pack"),
        ({"passage_pattern": "("}, "passage_pattern: no valid regex"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"mine": ENTRY | change}))
    with pytest.raises(UserError, match=f"mine.yaml: dataset 'mine'.*{message}"):
        datasets.read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: {version: 1", "not readable as YAML"),
        ("- mine", "must map dataset names"),
        ("mine: 3", "'mine' must be a mapping"),
        ("mine: {version: 1}", "'mine' lacks source, language"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        datasets.read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_defined_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump({"mine": ENTRY}))
    with pytest.raises(UserError, match=r"b.yaml: dataset 'mine' is defined twice"):
        datasets.read_config(tmp_path)
