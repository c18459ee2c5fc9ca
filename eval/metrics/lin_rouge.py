"""ROUGE-1, -2 and -L (Lin, 2004) as the package `rouge-score` computes them, with Porter's stemmer.

This is what most benchmarks report, needle tests among them. It is not what LongBench calls
ROUGE-L; `eval.metrics.rouge` is. Words are runs of a to z and 0 to 9, in lower case; Chinese, of
which that would leave nothing, is cut by jieba.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from eval.metrics.chinese import answer_words
from models.errors import UserError


def rouge_f(kind: str, prediction: str, reference: str, language: str) -> float:
    """F-measure in [0, 1] of ``rouge1``, ``rouge2`` or ``rougeL``.

    Raises UserError for a reference that is written in letters of which the package sees none: it
    would score 0 whatever is predicted.
    """
    words = _words(language)
    if any(map(str.isalnum, reference)) and not words.tokenize(reference):
        raise UserError(
            f"{kind} sees no word in the reference {reference[:40]!r}: rouge-score knows the "
            "letters a to z; use METRIC=qa_f1"
        )
    from rouge_score.rouge_scorer import RougeScorer  # it brings in nltk, a quarter of a second

    scorer = RougeScorer([kind], tokenizer=words)
    return float(scorer.score(reference, prediction)[kind].fmeasure)


class _Chinese:
    """What the package calls a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return answer_words(text)


@cache
def _words(language: str) -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return _Chinese() if language == "zh" else DefaultTokenizer(use_stemmer=True)
