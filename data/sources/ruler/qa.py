"""RULER's question answering: SQuAD or HotpotQA, the documents of the answer among others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.hashing import file_digest
from data.packs import pack_file
from data.sources import haystack
from data.sources.ruler.sample import Cell, Draft, Sample
from models.errors import UserError

Document = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question, its answers, the documents that answer it (`gold`), and those `near` to it."""

    text: str
    answers: list[str]
    gold: list[int]
    near: list[int]


@dataclass(frozen=True)
class Corpus:
    """Documents, each a tuple of sentences, and the questions on them in the file's order."""

    documents: list[Document]
    questions: list[Question]


@dataclass(frozen=True)
class Questions:
    """Answer a question of `dataset` (squad or hotpotqa) from many documents.

    Row n asks the n-th question. Beside its gold documents stand those near to it (SQuAD: of the
    same article; HotpotQA: its own distractors) and, when they are used up, any others.
    """

    dataset: str = "squad"

    def __post_init__(self) -> None:
        if self.dataset not in _READERS:
            raise UserError(f"dataset must be {' or '.join(_READERS)}, not {self.dataset!r}")

    def draft(self, cell: Cell) -> Draft:
        """The documents' order of use is drawn here; the size is the sentences of distractors."""
        pool = corpus(self.dataset)
        if cell.index >= len(pool.questions):
            raise UserError(f"{cell.dataset.name}: there are only {len(pool.questions)} questions")
        question = pool.questions[cell.index]
        gold = [pool.documents[i] for i in question.gold]
        stream = cell.stream("distractors")
        near = stream.sample(question.near, len(question.near))
        used = {*question.gold, *near}
        others = [i for i in range(len(pool.documents)) if i not in used]
        distractors = [*near, *stream.sample(others, len(others))]

        def build(size: int) -> Sample:
            shown = gold + list(_first(size, pool.documents, distractors))
            cell.stream("order", size).shuffle(shown)
            texts = [f"Document {n}:\n{''.join(document)}" for n, document in enumerate(shown, 1)]
            return Sample("\n\n".join(texts), question.text, question.answers)

        most = sum(len(pool.documents[i]) for i in distractors)
        return Draft(build, rate=30.0, largest=most)

    def reads(self, haystack: str | None) -> str:
        """A hash of the question set's file."""
        return file_digest(pack_file(f"{self.dataset}.json"))


def _first(size: int, documents: list[Document], order: list[int]) -> Iterator[Document]:
    """Documents in their order until `size` sentences are reached; the last one may be cut."""
    for index in order:
        if size <= 0:
            return
        yield documents[index][:size]
        size -= len(documents[index])


@lru_cache(maxsize=2)
def corpus(name: str) -> Corpus:
    """A question set of the data pack; raises UserError where it is missing or damaged."""
    path = pack_file(f"{name}.json")
    try:
        return _READERS[name](json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}"
    return UserError(f"{path} is not as expected ({reason}); delete .venv and run: make setup")


def _squad(content: dict[str, Any]) -> Corpus:
    """SQuAD 2.0's answerable questions; a document is a paragraph."""
    numbers: dict[str, int] = {}
    questions = []
    for article in content["data"]:
        texts = [paragraph["context"] for paragraph in article["paragraphs"]]
        here = [numbers.setdefault(text, len(numbers)) for text in texts]
        for number, paragraph in zip(here, article["paragraphs"], strict=True):
            near = [other for other in dict.fromkeys(here) if other != number]
            for asked in paragraph["qas"]:
                if not asked["is_impossible"]:
                    answers = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                    questions.append(Question(asked["question"], answers, [number], near))
    return Corpus([tuple(haystack.sentences(text)) for text in numbers], questions)


def _hotpotqa(content: list[dict[str, Any]]) -> Corpus:
    """HotpotQA's questions; a document is a title and its paragraph."""
    numbers: dict[Document, int] = {}
    questions = []
    for asked in content:
        golden = {title for title, _ in asked["supporting_facts"]}
        gold: list[int] = []
        near: list[int] = []
        for title, sentences in asked["context"]:
            document = (f"{title}\n{sentences[0]}", *sentences[1:])
            number = numbers.setdefault(document, len(numbers))
            (gold if title in golden else near).append(number)
        questions.append(Question(asked["question"], [asked["answer"]], gold, near))
    return Corpus(list(numbers), questions)


_READERS: dict[str, Callable[[Any], Corpus]] = {"squad": _squad, "hotpotqa": _hotpotqa}
