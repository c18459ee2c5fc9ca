"""Metrics against values worked out by hand from the benchmarks' definitions."""

import pytest

from eval.metrics.scores import METRICS, check, score
from models.errors import UserError

STRINGS = [
    "",
    " ",
    "the",
    "Yes.",
    "Ada Lovelace, of London",
    "a b c a. b c! A b.",
    "今天天气很好。北京，Python 3。",
    "1,024 km² `code` # 7",
]
CLASSES = ["Person", "Description of a person", "Description", "City"]
# What is always right for a metric whose references have a form of their own.
FORMS = {
    "classification": ["City", "Person", "Description"],
    "retrieval": ["Paragraph 2", "Paragraph 12", "Paragraph 3"],
    "retrieval_zh": ["段落2", "段落12", "段落3"],
}


def points(metric: str, prediction: str, *answers: str, language: str = "en", **options) -> float:
    """The score in [0, 1], of the whole prediction."""
    first_line = options.pop("first_line", False)
    found = score(
        metric, prediction, list(answers), language=language, first_line=first_line, **options
    )
    return found / 100


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
    assert points("qa_f1", prediction, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("「北京」。", "北京", 1.0),
        # The benchmark drops 》 and keeps 《: 2·1 / (2 + 1)
        ("《北京》", "北京", 2 / 3),
        # 我 / 爱 / 北京 against 北京: 2·1 / (3 + 1)
        ("我爱北京", "北京", 0.5),
        ("。！", "北京", 0.0),
        ("", "北京", 0.0),
        ("PYTHON", "python", 1.0),
    ],
)
def test_qa_f1_chinese(prediction: str, answer: str, expected: float) -> None:
    assert points("qa_f1", prediction, answer, language="zh") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        # "police the gunman" is common, of 4 and 4 distinct words: P = R = 3/4
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        # case and punctuation are part of a word
        ("Police!", "police", 0.0),
        # 2 of 4 and 2 of 2 words: 2·(1/2)·1 / (3/2)
        ("a b c d", "b d", 2 / 3),
        # distinct words: a a a a is one word, all of it common: P = 1, R = 1/2
        ("a a a a", "a b", 2 / 3),
        # Lin's example of the union: w1 w2 and w1 w3 w5 unite to 4 words of 5; 4 of 8 predicted
        ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 2 * 0.5 * 0.8 / 1.3),
        # order counts within a sentence only: {b} or {a} of 2 and 2, or both across sentences
        ("b a", "a b", 0.5),
        ("b. a", "a b", 1.0),
        # a blank after the last full stop is a sentence of one empty word: 1 common of 2 and 1
        ("a. ", "a", 2 / 3),
        ("a.", "a", 1.0),
        # common are a and b, or x: the longer one counts
        ("x a b", "a b x", 2 / 3),
        # a or b is common to "a b" and "b a": the walk from the ends drops the last predicted word
        # first and keeps a; so does "a c": 1 of 3 and 2 words. With b it would be 2 of them.
        ("a b. a c", "b a", 0.4),
        ("", "police", 0.0),
        (" \n", "police", 0.0),
        ("...", "police", 0.0),
        ("kills", "kill", 0.0),
    ],
)
def test_rouge_l_english(prediction: str, answer: str, expected: float) -> None:
    assert points("rouge_l", prediction, answer) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("metric", "prediction", "answer", "expected"),
    [
        # Lin's own example (2004, section 3.1): "police the gunman" of 4 and 4 words
        ("rougeL", "police kill the gunman", "police killed the gunman", 1.0),  # kill is its stem
        ("rougeL", "the gunman shot police", "police killed the gunman", 0.5),
        ("rougeL", "the gunman police shot", "police killed the gunman", 0.5),
        ("rouge1", "the gunman police shot", "police killed the gunman", 0.75),
        # of 3 and 3 pairs of words only "the gunman" is common
        ("rouge2", "the gunman police shot", "police killed the gunman", 1 / 3),
        # a word counts as often as both have it: 2 of 4 and 2 of 2
        ("rouge1", "no no no no", "no no", 2 * 0.5 * 1.0 / 1.5),
        ("rougeL", "no no no no", "no no", 2 * 0.5 * 1.0 / 1.5),
        # case and punctuation are no part of a word, unlike LongBench's
        ("rougeL", "The code: KX-9052!", "the code kx 9052", 1.0),
        ("rouge2", "one", "one", 0.0),
        ("rouge1", "", "police", 0.0),
        ("rouge1", "police", "...", 0.0),
    ],
)
def test_rouge_of_rouge_score(metric, prediction, answer, expected) -> None:
    assert points(metric, prediction, answer) == pytest.approx(expected)


def test_rouge_of_rouge_score_in_chinese_is_over_words() -> None:
    """The package itself keeps a to z and 0 to 9 only, so that every Chinese answer scores 0."""
    # 北京 is 1 of 1 and 1 of 3 words
    assert points("rougeL", "北京。", "我爱北京。", language="zh") == pytest.approx(0.5)
    assert points("rouge1", "北京爱我", "我爱北京。", language="zh") == pytest.approx(1.0)


@pytest.mark.parametrize("metric", ["rouge1", "rouge2", "rougeL"])
def test_a_reference_of_which_rouge_sees_nothing_is_refused(metric: str) -> None:
    with pytest.raises(UserError, match=f"{metric} sees no word in the reference 'Москва'"):
        points(metric, "Москва", "Москва")


def test_the_language_of_own_answers_is_found() -> None:
    def f1(prediction: str, *answers: str) -> float:
        return points("qa_f1", prediction, *answers, language="auto")

    # 我 / 爱 / 北京 against 北京, as in Chinese; one word of one as in English
    assert f1("我爱北京", "北京") == pytest.approx(0.5)
    assert f1("the tower", "a tower") == 1.0
    assert f1("the Python 3", "Python 3 今") == points("qa_f1", "the Python 3", "Python 3 今")
    assert f1("1950", "1950") == 1.0


def test_rouge_l_chinese_is_over_words() -> None:
    assert points("rouge_l", "我爱北京", "我爱北京", language="zh") == pytest.approx(1)
    # 北京 is 1 of 1 and 1 of 3 words
    assert points("rouge_l", "北京", "我爱北京", language="zh") == pytest.approx(0.5)
    # 。 is a word like another and ends no sentence: 北京 and 。 of 2 and 4
    assert points("rouge_l", "北京。", "我爱北京。", language="zh") == pytest.approx(2 / 3)


def test_rouge_l_of_long_texts() -> None:
    """A thousand words in one sentence, where the benchmark's own package gives up and scores 0."""
    words = [f"w{i}" for i in range(1000)]
    assert points("rouge_l", " ".join(words), " ".join(words)) == pytest.approx(1)
    assert points("rouge_l", " ".join(words[:500]), " ".join(words)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("City", "City", 1.0),
        ("It is a City, I think.", "City", 1.0),
        ("city", "City", 0.0),
        # two classes named, one of them right
        ("City or Person", "City", 0.5),
        ("Person", "City", 0.0),
        ("", "City", 0.0),
        # Description is part of the right class's name and so does not count as named
        ("Description of a person", "Description of a person", 1.0),
        # but the longer class does, where the shorter one is right
        ("Description of a person", "Description", 0.5),
    ],
)
def test_classification(prediction: str, answer: str, expected: float) -> None:
    assert points("classification", prediction, answer, all_classes=CLASSES) == expected


def test_classification_removes_from_the_list_it_walks() -> None:
    """The benchmark's own slip: of two neighbours to leave out, the second stays."""
    classes = ["a", "ab", "abc"]
    assert points("classification", "abc", "abc", all_classes=classes) == 0.5
    assert points("classification", "abc", "abc", all_classes=["a", "x", "ab", "abc"]) == 0.5
    assert points("classification", "abc", "abc", all_classes=["a", "abc", "ab"]) == 1.0


def test_classification_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match="all_classes"):
        points("classification", "City", "City")


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("7", "7", 1.0),
        ("There are 7 of them.", "7", 1.0),
        ("17", "7", 0.0),
        ("7, or 8, or 9", "7", 1 / 3),
        ("7 and 7", "7", 1.0),
        ("07", "7", 0.0),
        ("seven", "7", 0.0),
        ("", "7", 0.0),
    ],
)
def test_count(prediction: str, answer: str, expected: float) -> None:
    assert points("count", prediction, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "prediction", "answer", "expected"),
    [
        ("retrieval", "Paragraph 12", "Paragraph 12", 1.0),
        ("retrieval", "12", "Paragraph 12", 1.0),
        ("retrieval", "Paragraph 1", "Paragraph 12", 0.0),
        ("retrieval", "Paragraph 12, not Paragraph 3", "Paragraph 12", 0.5),
        ("retrieval", "", "Paragraph 12", 0.0),
        ("retrieval_zh", "段落12", "段落12", 1.0),
        ("retrieval_zh", "答案是段落12。", "段落12", 1.0),
        ("retrieval_zh", "段落3、段落12", "段落12", 0.5),
        ("retrieval_zh", "十二", "段落12", 0.0),
    ],
)
def test_retrieval(metric: str, prediction: str, answer: str, expected: float) -> None:
    assert points(metric, prediction, answer) == expected


@pytest.mark.parametrize(("metric", "answer"), [("retrieval", "段落1"), ("retrieval_zh", "1")])
def test_a_reference_without_a_paragraph_is_refused(metric: str, answer: str) -> None:
    with pytest.raises(UserError, match=f"reference '{answer}' names no paragraph"):
        points(metric, "1", answer)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("    return x", "    return x", 1.0),
        # 3 of 4 and 4 characters match in one block: 2·3 / 8
        ("abcd", "abcx", 0.75),
        # the longest block first: bcd leaves nothing on both sides; 2·3 / (4 + 4)
        ("abcd", "bcda", 0.75),
        # whole percent: 2·1 / 3 is 67
        ("a", "ab", 0.67),
        # the first line without a mark of a comment or of code fences
        ("\n```python\n# so:\n  // or\nreturn x\nreturn y", "return x", 1.0),
        # an empty line is a line
        ("# so:\n\nreturn x", "return x", 0.0),
        ("# return x", "return x", 0.0),
        ("", "return x", 0.0),
        # difflib takes the block XY first: 2·2 / 14; the subsequence 123 would be 2·3 / 14
        ("XY1_2_3", "1=2=3XY", 0.29),
    ],
)
def test_code_sim(prediction: str, answer: str, expected: float) -> None:
    assert points("code_sim", prediction, answer, language="code") == pytest.approx(expected)


def test_string_match_all_is_the_share_of_references_found() -> None:
    answers = ["1234", "Blue Whale", "x", "77"]
    assert points("string_match_all", "the BLUE whale and 51234.", *answers) == 0.5
    assert points("string_match_all", "", *answers) == 0.0
    assert points("string_match_all", "1234 blue whale x 77", *answers) == 1.0


@pytest.mark.parametrize("metric", ["string_match_part", "needle"])
def test_any_reference_found_is_a_full_score(metric: str) -> None:
    answers = ["eat a sandwich", "Dolores Park"]
    assert points(metric, "Sit in dolores park on a sunny day.", *answers) == 1.0
    assert points(metric, "Sit in Dolores' Park.", *answers) == 0.0
    assert points(metric, "", *answers) == 0.0


def test_score_is_the_best_reference_in_percent() -> None:
    answers = ["University of Toronto", "UT"]
    assert score("qa_f1", "UT", answers, language="en", first_line=False) == 100.0
    assert score("qa_f1", "Toronto", answers, language="en", first_line=False) == pytest.approx(50)


@pytest.mark.parametrize("metric", [None, *sorted(METRICS)])
def test_nothing_is_scored_without_answers_or_without_a_metric(metric: str | None) -> None:
    """Not 0, which would count in a mean."""
    options = {"language": "en", "first_line": False, "all_classes": CLASSES}
    assert score(metric, "Toronto", [], **options) is None
    if metric is None:
        assert score(None, "Toronto", ["Toronto"], **options) is None


def test_score_of_the_first_line() -> None:
    prediction = "\n\nAnna is late.\nDialogue: more"
    assert points("rouge_l", prediction, "Anna is late.", first_line=True) == pytest.approx(1)
    assert points("rouge_l", prediction, "Anna is late.") < 0.99
    # Only newlines are skipped: a first line of spaces is the answer, and empty.
    assert points("rouge_l", " \nAnna is late.", "Anna is late.", first_line=True) == 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_bounds_and_order_of_references(metric: str, language: str) -> None:
    answers = FORMS.get(metric, STRINGS)
    for text in (*STRINGS, *answers):
        options = {"language": language, "first_line": False, "all_classes": CLASSES}
        forward = score(metric, text, answers, **options)
        assert 0.0 <= forward <= 100.0
        assert score(metric, text, answers[::-1], **options) == pytest.approx(forward)
        assert forward == pytest.approx(
            sum(score(metric, text, [answer], **options) for answer in answers) / len(answers)
            if metric == "string_match_all"
            else max(score(metric, text, [answer], **options) for answer in answers)
        )
        assert score(metric, "", answers, **options) == 0.0


def test_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'bleu'.*qa_f1, retrieval"):
        points("bleu", "a", "a")
    with pytest.raises(UserError, match="unknown metric 'bleu'"):
        score("bleu", "a", [], language="en", first_line=False)
    with pytest.raises(UserError, match="unknown metric 'bleu'"):
        check("bleu")
    for metric in (None, *METRICS):
        check(metric)
