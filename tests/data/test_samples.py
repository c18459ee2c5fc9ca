"""The built-in samples: complete, in the benchmark's layout, and answerable from their context."""

import re
from pathlib import Path

import pytest

from data import datasets
from data.row import Row
from data.sources.longbench import SAMPLE_DIR
from data.sources.longbench.files import read_jsonl

MULTI_HOP = ("2wikimqa", "hotpotqa", "musique")
SINGLE = ("multifieldqa_en", "multifieldqa_zh", "dureader")
FEW_SHOT = ("samsum", "triviaqa", "trec", "lsht")
SUMMARIES = ("multi_news", "gov_report", "vcsum")
RETRIEVAL = {"passage_retrieval_en": "Paragraph ", "passage_retrieval_zh": "段落"}
CODE = ("lcc", "repobench-p")
OTHER = ("narrativeqa", "qasper", "qmsum", "passage_count")
ALL = (*MULTI_HOP, *SINGLE, *FEW_SHOT, *SUMMARIES, *RETRIEVAL, *CODE, *OTHER)
CLASSES = {"trec": 50, "lsht": 24}
PROGRAMMING = {"lcc": ("python", "java", "csharp"), "repobench-p": ("python", "java")}
SIZE = {"en": (450, 1200), "zh": (600, 1500), "code": (60, 150)}  # words, characters, lines


def sample(name: str) -> list[Row]:
    return read_jsonl(Path(SAMPLE_DIR) / f"{name}.jsonl")


def passages(name: str, context: str) -> list[str]:
    pattern = datasets.get(name).passage_pattern
    assert pattern is not None
    starts = [match.start() for match in re.finditer(pattern, context, re.MULTILINE)]
    assert starts[0] == 0
    return [context[a:b] for a, b in zip(starts, [*starts[1:], len(context)], strict=True)]


def size(row: Row, language: str) -> int:
    text = row.context
    if language == "code":
        return (text + row.question).count("\n")
    return len(text) if language == "zh" else len(text.split())


def test_every_task_has_a_sample() -> None:
    tasks = {name for name in datasets.names() if datasets.get(name).suite == "longbench"}
    assert tasks == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_twelve_rows_in_the_benchmarks_schema(name: str) -> None:
    rows = sample(name)
    language = datasets.get(name).language
    low, high = SIZE[language]
    assert (SAMPLE_DIR / f"{name}.jsonl").stat().st_size < 120_000
    assert [row.id for row in rows] == [f"sample-{name}-{n:02d}" for n in range(12)]
    for row in rows:
        assert row.language in PROGRAMMING.get(name, (language,))
        assert (row.all_classes is not None) == (name in CLASSES)
        assert low <= size(row, language) <= high, row.id
        text = row.context if language == "zh" else row.context.split()
        assert row.length >= len(text)
        assert "{" not in row.context or language == "code" or name == "qmsum"
    assert len({(row.context, row.question) for row in rows}) == 12
    assert len({row.answers[0] for row in rows if row.answers[0] not in ("yes", "no")}) > 8


@pytest.mark.parametrize("name", [*MULTI_HOP, *SINGLE])
def test_answers_stand_in_the_context(name: str) -> None:
    for row in sample(name):
        assert name == "dureader" or row.question.endswith(("?", "？"))
        for answer in row.answers:
            assert answer in ("yes", "no") or answer.rstrip("。") in row.context, row.id


@pytest.mark.parametrize("name", ["narrativeqa", "qasper"])
def test_free_answers_have_their_words_in_the_context(name: str) -> None:
    for row in sample(name):
        context = set(re.findall(r"[\w.]*\w", row.context.lower()))
        assert row.question.endswith("?")
        for answer in row.answers:
            words = re.findall(r"[\w.]*\w", answer.lower())
            told = [word for word in words if word in context | {"because"}]
            assert answer in ("yes", "no", "unanswerable") or told == words, (row.id, answer)


@pytest.mark.parametrize("name", MULTI_HOP)
def test_multi_hop_contexts_are_distinct_titled_passages(name: str) -> None:
    for row in sample(name):
        parts = [part.strip().split("\n") for part in passages(name, row.context)]
        assert 9 <= len(parts) <= 10
        assert [part[0] for part in parts] == [f"Passage {n}:" for n in range(1, len(parts) + 1)]
        assert len({part[1] for part in parts}) == len(parts)


def test_samsum_is_few_shot_and_does_not_give_its_answer_away() -> None:
    for row in sample("samsum"):
        shots = passages("samsum", row.context)
        assert len(shots) == 9
        assert all(re.fullmatch(r"(?s)Dialogue: .*\nSummary: [^\n]+\n", shot) for shot in shots)
        assert row.question.startswith("Dialogue: ")
        assert row.question.endswith("\nSummary: ")
        assert row.answers[0] not in row.context
        assert row.question.split("\n")[0] not in row.context


def test_multi_news_has_three_articles_and_no_question() -> None:
    for row in sample("multi_news"):
        assert len(passages("multi_news", row.context)) == 3
        assert row.question == ""
        assert 50 <= len(row.answers[0].split()) <= 150


@pytest.mark.parametrize("name", ["trec", "lsht"])
def test_classified_examples_have_known_classes_and_leave_the_question_out(name: str) -> None:
    label = re.compile(r"^(?:Type: |类别：)(.+)$", re.MULTILINE)
    for row in sample(name):
        shots = passages(name, row.context)
        labels = label.findall(row.context)
        assert len(labels) == len(shots) >= 12
        assert set(labels) | set(row.answers) <= set(row.all_classes)
        assert len(row.all_classes) == len(set(row.all_classes)) == CLASSES[name]
        assert row.question.endswith(("\nType:", "\n类别："))
        assert row.question not in row.context
        assert row.answers[0] in labels  # the class has an example


def test_triviaqa_shots_are_answered_and_the_question_is_answerable() -> None:
    shot = r"(?s)Passage:\n.+\nQuestion:\n[^\n]+\?\nAnswer:\n"
    for row in sample("triviaqa"):
        shots = passages("triviaqa", row.context)
        assert len(shots) == 7
        assert all(re.fullmatch(shot + r"[^\n]+\n", text) for text in shots)
        assert re.fullmatch(shot, row.question)
        assert any(answer in row.question for answer in row.answers)
        assert row.question not in row.context


@pytest.mark.parametrize("name", ["gov_report", "vcsum"])
def test_summaries_are_shorter_than_what_they_sum_up(name: str) -> None:
    for row in sample(name):
        assert row.question == ""
        assert 120 <= len(row.answers[0]) < len(row.context) / 3


def test_meetings_have_speakers_and_a_query() -> None:
    for row in sample("qmsum"):
        assert all(re.match(r"[A-Z]\w+ \w+(?: \w+)?: \S", x) for x in row.context.split("\n"))
        assert row.question.endswith(("?", "."))
    for row in sample("vcsum"):
        assert all(re.match(r"讲者[1-4]：", line) for line in row.context.split("\n"))


def test_dureader_has_titled_articles() -> None:
    for row in sample("dureader"):
        texts = passages("dureader", row.context)
        assert len(texts) == 12
        for number, text in enumerate(texts, 1):
            assert re.fullmatch(rf"文章{number}\n标题：[^\n]+\n[^\n]+\n*", text)


def test_passage_count_counts_the_distinct_paragraphs() -> None:
    for row in sample("passage_count"):
        texts = passages("passage_count", row.context)
        bodies = [text.split(": ", 1)[1].strip() for text in texts]
        assert [text.split(":")[0] for text in texts] == [
            f"Paragraph {n}" for n in range(1, len(texts) + 1)
        ]
        assert row.answers == [str(len(set(bodies)))]
        assert 1 < len(set(bodies)) < len(bodies)


@pytest.mark.parametrize("name", sorted(RETRIEVAL))
def test_the_abstract_is_nearest_to_its_own_paragraph(name: str) -> None:
    """By the words that both have, in Chinese by pairs of characters: answerable, and only so."""

    def parts(text: str) -> set[str]:
        if name.endswith("zh"):
            return {text[n : n + 2] for n in range(len(text) - 1)}
        return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}

    for row in sample(name):
        texts = passages(name, row.context)
        target = int(row.answers[0].removeprefix(RETRIEVAL[name]))
        assert row.answers == [f"{RETRIEVAL[name]}{target}"]
        assert len(texts) == len(set(texts)) == 30
        assert row.question not in row.context
        shares = [len(parts(row.question) & parts(text)) for text in texts]
        assert shares[target - 1] == max(shares), row.id


@pytest.mark.parametrize("name", CODE)
def test_the_next_line_is_code_made_of_names_already_seen(name: str) -> None:
    for row in sample(name):
        (line,) = row.answers
        text = row.context + row.question
        assert row.context.endswith("\n")
        assert bool(row.question) == (name == "repobench-p")
        assert row.question.endswith("\n") or not row.question
        assert line.strip()
        assert not any(mark in line for mark in ("#", "//", "`", "\n"))
        names = re.findall(r"[A-Za-z_]\w*", line)
        assert sum(word in text for word in names) >= len(names) / 2, line
        # At most one level deeper than the line before it.
        before = next(x for x in reversed(text.split("\n")) if x.strip())
        depths = [len(x) - len(x.lstrip()) for x in (before, line)]
        assert depths[1] % 4 == 0
        assert depths[1] - depths[0] <= 4
