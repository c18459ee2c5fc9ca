"""Metrics against values worked out by hand from LongBench's definitions."""

import pytest

from eval.metrics import METRICS, qa_f1, rouge_l, score
from models.errors import UserError

STRINGS = [
    "",
    " ",
    "the",
    "Yes.",
    "Ada Lovelace, of London",
    "a b c a",
    "今天天气很好。",
    "1,024 km²",
]


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("Bob Dylan", "Bob Dylan", 1.0),
        ("The  BOB, Dylan!", "bob dylan", 1.0),
        # 1 shared word of 3 and 2: 2·1 / (3 + 2)
        ("Robert Bob Smith", "Bob Dylan", 0.4),
        # a word counts as often as both have it: min(2, 1) = 1, 2·1 / (2 + 1)
        ("no no", "no", 2 / 3),
        ("Yes", "yes", 1.0),
        ("yes, both of them", "no", 0.0),
        # removed, not spaced: "twelve-year" becomes one word
        ("twelve-year", "twelve year", 0.0),
        ("", "Bob", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_qa_f1_english(prediction: str, answer: str, expected: float) -> None:
    assert qa_f1(prediction, [answer]) == pytest.approx(expected)


def test_qa_f1_chinese_counts_words_and_drops_punctuation() -> None:
    assert qa_f1("「北京」。", ["北京"], "zh") == 1.0
    # The benchmark drops 》 and keeps 《: 2·1 / (2 + 1)
    assert qa_f1("《北京》", ["北京"], "zh") == pytest.approx(2 / 3)
    # 我 / 爱 / 北京 against 北京: 2·1 / (3 + 1)
    assert qa_f1("我爱北京", ["北京"], "zh") == pytest.approx(0.5)
    assert qa_f1("。！", ["北京"], "zh") == 0.0


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        # Lin (2004): "police kill the gunman" shares "police the gunman" with the reference
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("Police!", "police", 1.0),
        # LCS 2 of 4 and 2 words: 2·(2/4)(2/2) / (2/4 + 2/2)
        ("a b c d", "b d", 2 / 3),
        ("", "police", 0.0),
        (" \n", "police", 0.0),
        ("kills", "kill", 0.0),
    ],
)
def test_rouge_l_english_without_stemming(prediction: str, answer: str, expected: float) -> None:
    assert rouge_l(prediction, [answer]) == pytest.approx(expected)


def test_rouge_l_chinese_is_over_words() -> None:
    assert rouge_l("我爱北京", ["我爱北京"], "zh") == pytest.approx(1.0)
    # 北京 is 1 of 1 and 1 of 3 words
    assert rouge_l("北京", ["我爱北京"], "zh") == pytest.approx(0.5)


def test_score_is_the_best_reference_in_percent() -> None:
    answers = ["University of Toronto", "UT"]
    assert score("qa_f1", "UT", answers, first_line=False) == 100.0
    assert score("qa_f1", "Toronto", answers, first_line=False) == pytest.approx(50.0)
    assert score("qa_f1", "Toronto", [], first_line=False) == 0.0


def test_score_of_the_first_line() -> None:
    prediction = "\n\nAnna is late.\nDialogue: more"
    assert score("rouge_l", prediction, ["Anna is late."], first_line=True) == 100.0
    assert score("rouge_l", prediction, ["Anna is late."], first_line=False) < 100.0
    # Only newlines are skipped: a first line of spaces is the answer, and empty.
    assert score("rouge_l", " \nAnna is late.", ["Anna is late."], first_line=True) == 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_bounds_and_order_of_references(metric: str, language: str) -> None:
    for text in STRINGS:
        forward = score(metric, text, STRINGS, language=language, first_line=False)
        backward = score(metric, text, STRINGS[::-1], language=language, first_line=False)
        assert 0.0 <= forward <= 100.0
        assert forward == backward
        assert score(metric, "", [text], language=language, first_line=False) == 0.0


def test_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'bleu'.*qa_f1, rouge_l"):
        score("bleu", "a", ["a"], first_line=False)
