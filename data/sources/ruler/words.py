"""RULER's aggregation: the most common of listed words, the most frequent of coded words."""

from __future__ import annotations

import math
import random
import string
from dataclasses import dataclass

from data.sources.ruler.sample import Cell, Draft, Sample, with_example
from data.sources.ruler.vocabulary import words
from models.errors import UserError

# Below this length RULER repeats fewer words: so many times the common and the uncommon ones.
_SHORT, _SHORT_REPEATS = 4096, (6, 1)
# The solved example in front: distinct words, repeats of the common, repeats of the uncommon.
_SHORT_EXAMPLE, _EXAMPLE = (20, 3, 1), (40, 10, 3)


@dataclass(frozen=True)
class CommonWords:
    """Name the `num_cw` words that stand `freq_cw` times in a list, others `freq_ucw` times.

    Where the vocabulary is used up, all words are repeated twice, three times, … as often.
    """

    freq_cw: int = 30
    freq_ucw: int = 3
    num_cw: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.freq_ucw < self.freq_cw:
            raise UserError("freq_ucw must be at least 1 and below freq_cw")
        if not 1 <= self.num_cw <= _SHORT_EXAMPLE[0]:
            raise UserError(f"num_cw must be 1 to {_SHORT_EXAMPLE[0]}")

    def draft(self, cell: Cell) -> Draft:
        """The words' order of use is drawn here; the size is the count of uncommon words."""
        short = cell.length < _SHORT
        common, uncommon = _SHORT_REPEATS if short else (self.freq_cw, self.freq_ucw)
        vocabulary = self.reads(cell.haystack)
        stream = cell.stream("example")
        distinct, often, seldom = _SHORT_EXAMPLE if short else _EXAMPLE
        example = self._sample(stream.sample(vocabulary, distinct), often, seldom, stream)
        answer = _numbered(example.answers) + "\n"
        order = cell.stream("words").sample(vocabulary, len(vocabulary))
        most = len(vocabulary) - self.num_cw

        def build(size: int) -> Sample:
            times = max(1, math.ceil(size / most))
            chosen = order[: self.num_cw + math.ceil(size / times)]
            shuffle = cell.stream("order", size)
            made = self._sample(chosen, times * common, times * uncommon, shuffle)
            context = with_example(cell.dataset, example, answer, made.context)
            return Sample(context, "", made.answers)

        return Draft(build, rate=6.0 * uncommon, smallest=self.num_cw)

    def reads(self, haystack: str | None) -> list[str]:
        """The vocabulary, sorted."""
        return sorted({word for kind in ("noun", "adjective", "verb") for word in words(kind)})

    def _sample(
        self, chosen: list[str], common: int, uncommon: int, order: random.Random
    ) -> Sample:
        answers, rest = chosen[: self.num_cw], chosen[self.num_cw :]
        listed = answers * common + rest * uncommon
        order.shuffle(listed)
        return Sample(_numbered(listed), "", answers)


@dataclass(frozen=True)
class FrequentWords:
    """Name the three most frequent of coded words, whose counts fall as rank to the -`alpha`.

    Coded words are `coded_wordlen` random letters; there are `vocab_size` of them, null for one
    per 50 tokens of the prompt. The first rank is noise, written as dots.
    """

    alpha: float = 2.0
    coded_wordlen: int = 6
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if self.alpha <= 1 or self.coded_wordlen < 2:
            raise UserError("alpha must be above 1 and coded_wordlen at least 2")
        if self.vocab_size is not None and self.vocab_size < 5:
            raise UserError("vocab_size must be at least 5, or null")

    def draft(self, cell: Cell) -> Draft:
        """The vocabulary is drawn here; the size is the count of words before rounding down."""
        size = self.vocab_size or max(5, cell.length // 50)
        stream = cell.stream("vocabulary")
        coded: dict[str, None] = {}
        while len(coded) < size:
            coded["".join(stream.choices(string.ascii_lowercase, k=self.coded_wordlen))] = None
        ranked = ["...", *list(coded)[1:]]
        shares = [rank**-self.alpha / zeta(self.alpha) for rank in range(1, size + 1)]

        def build(size: int) -> Sample:
            counts = [int(size * share) for share in shares]
            text = [w for w, count in zip(ranked, counts, strict=True) for _ in range(count)]
            cell.stream("order", size).shuffle(text)
            return Sample(" ".join(text), "", ranked[1:4])

        # From here on the fourth coded word is rarer than the third by at least one.
        smallest = math.ceil(1 / (shares[3] - shares[4]))
        return Draft(build, rate=2.0, smallest=smallest)

    def reads(self, haystack: str | None) -> None:
        """Nothing."""


def zeta(alpha: float, terms: int = 1000) -> float:
    """Riemann's zeta for `alpha` > 1: the first terms, and Euler and Maclaurin for the rest."""
    head = math.fsum(k**-alpha for k in range(1, terms))
    return head + terms ** (1 - alpha) / (alpha - 1) + terms**-alpha / 2


def _numbered(listed: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(listed, 1))
