"""The built-in samples: complete, in the benchmark's layout, and answerable from their context."""

import re
from pathlib import Path

import pytest

from data import datasets
from data.longbench import read_jsonl
from data.rows import SAMPLE_DIR

MULTI_HOP = ("2wikimqa", "hotpotqa", "musique")
QA = (*MULTI_HOP, "multifieldqa_en")
ALL = (*QA, "samsum", "multi_news")


def sample(name: str) -> list[dict]:
    return read_jsonl(Path(SAMPLE_DIR) / f"{name}.jsonl")


def passages(name: str, context: str) -> list[str]:
    pattern = datasets.get(name).passage_pattern
    assert pattern is not None
    starts = [match.start() for match in re.finditer(pattern, context, re.MULTILINE)]
    assert starts[0] == 0
    return [context[a:b] for a, b in zip(starts, [*starts[1:], len(context)], strict=True)]


@pytest.mark.parametrize("name", ALL)
def test_twelve_rows_in_the_benchmarks_schema(name: str) -> None:
    rows = sample(name)
    assert [row["_id"] for row in rows] == [f"sample-{name}-{n:02d}" for n in range(12)]
    for row in rows:
        assert (row["dataset"], row["language"], row["all_classes"]) == (name, "en", None)
        assert 550 <= len(row["context"].split()) <= 1200
        assert row["length"] >= len(row["context"].split())
    assert len({row["answers"][0] for row in rows if row["answers"][0] not in ("yes", "no")}) > 8


@pytest.mark.parametrize("name", QA)
def test_answers_stand_in_the_context(name: str) -> None:
    for row in sample(name):
        assert row["input"].endswith("?")
        for answer in row["answers"]:
            assert answer in ("yes", "no") or answer in row["context"], row["_id"]


@pytest.mark.parametrize("name", MULTI_HOP)
def test_multi_hop_contexts_are_distinct_titled_passages(name: str) -> None:
    for row in sample(name):
        parts = [part.strip().split("\n") for part in passages(name, row["context"])]
        assert 9 <= len(parts) <= 10
        assert [part[0] for part in parts] == [f"Passage {n}:" for n in range(1, len(parts) + 1)]
        assert len({part[1] for part in parts}) == len(parts)


def test_samsum_is_few_shot_and_does_not_give_its_answer_away() -> None:
    for row in sample("samsum"):
        shots = passages("samsum", row["context"])
        assert len(shots) == 9
        assert all(re.fullmatch(r"(?s)Dialogue: .*\nSummary: [^\n]+\n", shot) for shot in shots)
        assert row["input"].startswith("Dialogue: ")
        assert row["input"].endswith("\nSummary: ")
        assert row["answers"][0] not in row["context"]
        assert row["input"].split("\n")[0] not in row["context"]


def test_multi_news_has_three_articles_and_no_question() -> None:
    for row in sample("multi_news"):
        assert len(passages("multi_news", row["context"])) == 3
        assert row["input"] == ""
        assert 50 <= len(row["answers"][0].split()) <= 150
