"""Task scores as the benchmarks define them.

LongBench v1: metrics.py and eval.py of THUDM/LongBench, whose scores these equal on every task,
measured on up to 25 rows each with right, cut, padded, wrong and empty predictions. RULER:
scripts/eval/synthetic/constants.py of NVIDIA/RULER. A metric is a function here, or in a file of
its own, and a line of `METRICS`.
"""

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable

from eval.metrics.chinese import answer_words, cut, is_chinese
from eval.metrics.lin_rouge import rouge_f
from eval.metrics.rouge import rouge_l_f
from models.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROP = str.maketrans("", "", string.punctuation)
_COMMENT_MARKS = ("`", "#", "//")

Metric = Callable[[str, list[str], str, list[str] | None], float]
Pairwise = Callable[[str, str, str, list[str] | None], float]


def score(
    metric: str | None,
    prediction: str,
    answers: list[str],
    *,
    language: str,
    first_line: bool,
    all_classes: list[str] | None = None,
) -> float | None:
    """One prediction's score in [0, 100]: `metric` against the best of `answers`.

    None where nothing is scored: no metric, or no answers. `first_line` keeps the first line that
    follows any leading newlines, as LongBench does for few-shot tasks, whose models run on into a
    next example. The `language` "auto" is that of the answers. `all_classes` are the labels of a
    classification. Raises UserError for an unknown metric, or for a reference that it cannot use.
    """
    if metric is None:
        return None
    check(metric)
    if not answers:
        return None
    if first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if language == "auto":
        language = "zh" if is_chinese(" ".join(answers)) else "en"
    return 100.0 * METRICS[metric](prediction, answers, language, all_classes)


def check(metric: str | None) -> None:
    """Raise UserError for a metric that there is not; None is no metric, and serves."""
    if metric is not None and metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}: choose from {', '.join(sorted(METRICS))}")


def qa_f1(prediction: str, answer: str, language: str, _classes: list[str] | None) -> float:
    """Token F1. English is normalised as in SQuAD: lower case, no punctuation, no articles.

    Chinese is cut into words by jieba first, then stripped of punctuation word by word.
    """
    words = answer_words if language == "zh" else _words
    predicted, expected = words(prediction), words(answer)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * common / (len(predicted) + len(expected)) if common else 0.0


def rouge_l(prediction: str, answer: str, language: str, _classes: list[str] | None) -> float:
    """ROUGE-L as `eval.metrics.rouge` defines it, for Chinese between the words that jieba cuts."""
    if language == "zh":
        prediction, answer = " ".join(cut(prediction)), " ".join(cut(answer))
    return rouge_l_f(prediction, answer)


def rouge(kind: str) -> Pairwise:
    """ROUGE of a `kind` (rouge1, rouge2, rougeL) as `eval.metrics.lin_rouge` defines it."""

    def f_measure(prediction: str, answer: str, language: str, _classes: list[str] | None) -> float:
        return rouge_f(kind, prediction, answer, language)

    return f_measure


def classification(
    prediction: str, answer: str, _language: str, classes: list[str] | None
) -> float:
    """1 over the number of classes that the prediction names, if the right one is among them.

    A class whose name is part of the right one's does not count as named, except right after one
    that was left out for that reason: the benchmark removes from the list that it iterates over.
    """
    if not classes:
        raise UserError("classification needs the row's all_classes, and the row has none")
    named = [name for name in classes if name in prediction]
    index = 0
    while index < len(named):
        if named[index] in answer and named[index] != answer:
            named.remove(named[index])
        index += 1
    return 1.0 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str, _language: str, _classes: list[str] | None) -> float:
    """The share of the prediction's numbers that are the answer."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def retrieval(pattern: str) -> Pairwise:
    """The share of the prediction's numbers that are the one `pattern` finds in the answer."""

    def share(prediction: str, answer: str, language: str, classes: list[str] | None) -> float:
        found = re.search(pattern, answer)
        if not found:
            raise UserError(f"reference {answer!r} names no paragraph ({pattern}); mend the row")
        return count(prediction, found[1], language, classes)

    return share


def code_sim(prediction: str, answer: str, _language: str, _classes: list[str] | None) -> float:
    """Similarity of the first predicted line without ` # or // to the right one, in whole percent.

    The benchmark takes `ratio` of `fuzzywuzzy`, which is 2·M/T over difflib's matching blocks, as
    here: equal on 3,000 lines of lcc and repobench-p. `ratio` of `rapidfuzz`, or of `fuzzywuzzy`
    beside `python-Levenshtein`, is 2·LCS/T, never lower: 29.9 and not 25.8 on those lines.
    Published scores may be of either kind (THUDM/LongBench, issue 96).
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((text for text in lines if not any(m in text for m in _COMMENT_MARKS)), "")
    return round(100 * difflib.SequenceMatcher(None, line, answer).ratio()) / 100 if line else 0.0


def string_match_all(
    prediction: str, answers: list[str], _language: str, _classes: list[str] | None
) -> float:
    """The share of `answers` that occur in the prediction, whatever their case (RULER)."""
    return sum(_occurs(answer, prediction) for answer in answers) / max(1, len(answers))


def contains(prediction: str, answer: str, _language: str, _classes: list[str] | None) -> float:
    """1 if the answer occurs in the prediction, whatever its case (RULER's part match; needle)."""
    return float(_occurs(answer, prediction))


def best_of(pairwise: Pairwise) -> Metric:
    """The metric that is `pairwise` against the best of the references, 0 without any."""

    def best(
        prediction: str, answers: list[str], language: str, classes: list[str] | None
    ) -> float:
        return max((pairwise(prediction, one, language, classes) for one in answers), default=0.0)

    return best


METRICS: dict[str, Metric] = {
    "qa_f1": best_of(qa_f1),
    "rouge_l": best_of(rouge_l),
    "rouge1": best_of(rouge("rouge1")),
    "rouge2": best_of(rouge("rouge2")),
    "rougeL": best_of(rouge("rougeL")),
    "classification": best_of(classification),
    "count": best_of(count),
    "retrieval": best_of(retrieval(r"Paragraph (\d+)")),
    "retrieval_zh": best_of(retrieval(r"段落(\d+)")),
    "code_sim": best_of(code_sim),
    "string_match_all": string_match_all,
    "string_match_part": best_of(contains),
    "needle": best_of(contains),
}


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_DROP)).split()


def _occurs(answer: str, prediction: str) -> bool:
    return bool(answer) and answer.lower() in prediction.lower()
