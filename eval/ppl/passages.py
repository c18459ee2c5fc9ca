"""Contexts to compress, and what is scored after them: a text's own words, or a fact's answer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import chain
from typing import Any

from data import datasets
from data.sources.haystack import load, sentences
from eval.ppl.config import PplConfig
from models.errors import UserError


@dataclass(frozen=True)
class Passage:
    """Token ids.

    Attributes
    ----------
    context : what is compressed.
    following : what comes behind it.
    first : the first of ``following`` that is scored, at least 1: what the context itself predicts
        was decided before anything was evicted.
    """

    context: list[int]
    following: list[int]
    first: int


def passages(config: PplConfig, tokenizer: Any) -> tuple[list[Passage], str]:
    """``config.limit`` passages from all over the text, and where that is from.

    Raises
    ------
    UserError : the text is missing, or too short for its passages not to overlap.
    """
    text, where = load(config.haystack)
    pieces = [tokenizer(piece, add_special_tokens=False).input_ids for piece in _spaced(text)]
    sink = tokenizer("").input_ids  # what the tokenizer puts in front of every text
    size = config.context + (config.follow if config.task == "text" else 0)
    total = sum(map(len, pieces))
    if total < config.limit * size:
        raise UserError(
            f"{where} has {total} tokens, {config.limit} passages need {config.limit * size}: "
            "give a smaller LIMIT or CONTEXT, or a longer text"
        )
    starts: list[int] = []
    behind = 0
    for number, piece in enumerate(pieces):
        if behind >= len(starts) * (total // config.limit) and len(starts) < config.limit:
            starts.append(number)
        behind += len(piece)
    make = _text if config.task == "text" else _hidden
    return [make(config, tokenizer, sink, pieces[at:], i) for i, at in enumerate(starts)], where


def _spaced(text: str) -> list[str]:
    """The text's sentences, each with the space *before* it: tokens of words begin with theirs."""
    found, space = [], ""
    for sentence in sentences(text):
        words = sentence.rstrip()
        found.append(space + words)
        space = sentence[len(words) :]
    return found


def _text(
    config: PplConfig, tokenizer: Any, sink: list[int], pieces: list[list[int]], number: int
) -> Passage:
    ids = list(sink)
    for piece in pieces:
        if len(ids) >= config.context + config.follow:
            break
        ids += piece
    following = ids[config.context : config.context + config.follow]
    if len(following) < config.follow:
        raise UserError("the text ends within its last passage; give a smaller LIMIT")
    return Passage(ids[: config.context], following, 1)


def _hidden(
    config: PplConfig, tokenizer: Any, sink: list[int], pieces: list[list[int]], number: int
) -> Passage:
    """A fact among the sentences, at depths from the beginning to the end in turn."""
    fact, question, answer = _fact(config, number)
    told = tokenizer(f" {fact}", add_special_tokens=False).input_ids
    room = config.context - len(sink) - len(told)
    around: list[list[int]] = []
    for piece in pieces:
        if sum(map(len, around)) + len(piece) > room:
            break
        around.append(piece)
    at = round(len(around) * number / max(config.limit - 1, 1))
    context = [*sink, *chain(*around[:at], told, *around[at:])]
    asked = tokenizer(question, add_special_tokens=False).input_ids
    expected = tokenizer(f" {answer}", add_special_tokens=False).input_ids
    return Passage(context, [*asked, *expected], len(asked))


def _fact(config: PplConfig, number: int) -> tuple[str, str, str]:
    """The fact, what is asked after the context, and the answer."""
    if config.task == "passkey":
        key = str(random.Random(f"{config.seed}/{number}").randrange(10_000, 100_000))
        fact = f"The pass key is {key}. Remember it. {key} is the pass key."
        return fact, "\n\nWhat is the pass key? The pass key is", key
    (dataset,) = datasets.expand("needle")
    needles = dataset.parameters["needles"]
    needle = needles[(number + config.seed) % len(needles)]
    return needle["needle"], f"\n\nQuestion: {needle['question']}\nAnswer:", needle["answer"]
