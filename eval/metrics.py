"""Task scores as LongBench v1 defines them (metrics.py and eval.py of THUDM/LongBench)."""

import logging
import re
import string
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer

from models.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# The benchmark's own list, which has 》 but not 《.
_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜"
    "〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_DROP_EN = str.maketrans("", "", string.punctuation)
_DROP_ZH = str.maketrans("", "", string.punctuation + _CHINESE_PUNCTUATION)


def qa_f1(prediction: str, answers: list[str], language: str = "en") -> float:
    """Token F1 against the best of `answers`, in [0, 1].

    English is normalised as in SQuAD: lower case, no punctuation, no articles. Chinese is cut into
    words by jieba first, then stripped of punctuation and spaces word by word.
    """
    words = _words_zh if language == "zh" else _words_en
    return max((_f1(words(prediction), words(answer)) for answer in answers), default=0.0)


def rouge_l(prediction: str, answers: list[str], language: str = "en") -> float:
    """ROUGE-L F-measure against the best of `answers`, in [0, 1], by `rouge-score`, no stemmer.

    `rougeL` of `rouge-score` is one longest common subsequence over lower-case alphanumeric words.
    The benchmark itself calls the package `rouge` (1.0.1), whose "rouge-l" is another quantity: it
    splits at full stops, unites the sentences' common subsequences, counts each distinct word
    once, and keeps case and punctuation. Neither stems. The first 150 words of 40 multi_news
    contexts score 17.5 here and 25.4 there, so ROUGE-L of ours compares with ours only. Chinese
    is cut into words by jieba, and those words are the tokens.
    """
    if not prediction.strip():
        return 0.0
    scorer = _rouge(language)
    scores = (scorer.score(answer, prediction)["rougeL"].fmeasure for answer in answers)
    return max(scores, default=0.0)


METRICS: dict[str, Callable[[str, list[str], str], float]] = {"qa_f1": qa_f1, "rouge_l": rouge_l}


def score(
    metric: str, prediction: str, answers: list[str], *, language: str = "en", first_line: bool
) -> float:
    """One prediction's score in [0, 100]: `metric` against the best of `answers`, empty being 0.

    `first_line` keeps the first line that follows any leading newlines, as LongBench does for
    few-shot tasks, whose models run on into a next example. Raises UserError for an unknown metric.
    """
    if metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}: choose from {', '.join(sorted(METRICS))}")
    if first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    return 100.0 * METRICS[metric](prediction, answers, language)


def _f1(prediction: list[str], answer: list[str]) -> float:
    common = sum((Counter(prediction) & Counter(answer)).values())
    return 2.0 * common / (len(prediction) + len(answer)) if common else 0.0


def _words_en(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_DROP_EN)).split()


def _words_zh(text: str) -> list[str]:
    words = ("".join(word.lower().translate(_DROP_ZH).split()) for word in _cut(text))
    return [word for word in words if word]


def _cut(text: str) -> list[str]:
    import jieba  # its dictionary costs half a second, which English runs need not pay

    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut(text)


class _ChineseWords:
    """The tokenizer that rouge-score is given for Chinese: its own drops all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        """Words of `text`, without the spaces between them."""
        return [word for word in _cut(text) if word.strip()]


@lru_cache(maxsize=2)
def _rouge(language: str) -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=_ChineseWords() if language == "zh" else None)
