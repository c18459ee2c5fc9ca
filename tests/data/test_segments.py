"""How a row becomes tokens: nothing lost, nothing added, cut where it should be."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

import pytest

from data import datasets
from data.row import Row
from data.segments import Splitter, Splitting, drop_middle
from models.errors import UserError
from models.load.tokenizer import encode, frame
from tests.conftest import build
from tests.stages.harness import make_rows, make_tokenizer

ROWS = [
    Row(row["_id"], row["input"], row["context"], answers=row["answers"])
    for row in make_rows(6, seed=3)
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def splitter(tokenizer):
    config = build("llama").config

    def make(dataset: str = "2wikimqa", **changes) -> Splitter:
        known = {"chunking": "token", "chunk_size": 16, "max_length": 10_000, "chat": True}
        settings = Splitting(**(known | changes))
        framing = frame(tokenizer, config, settings.chat)
        return Splitter(datasets.get(dataset), tokenizer, framing, settings)

    return make


def parts(prompt) -> tuple[list[int], list[list[int]], list[int]]:
    prefix, *chunks, question = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    return prefix, chunks, question


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("size", [1, 7, 16, 100_000])
def test_token_chunks_are_the_contexts_encoding(splitter, tokenizer, row, size):
    _, chunks, _ = parts(splitter(chunk_size=size).prompt(row))
    ids = encode(tokenizer, row.context)
    assert list(chain(*chunks)) == ids
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= size
    assert tokenizer.decode(ids) == row.context


@pytest.mark.parametrize("row", ROWS)
def test_passages_are_chunks_of_their_own(splitter, tokenizer, row):
    _, chunks, _ = parts(splitter(chunking="passage").prompt(row))
    texts = [tokenizer.decode(chunk) for chunk in chunks]
    assert "".join(texts) == row.context
    assert len(texts) == row.context.count("Passage ")
    for number, text in enumerate(texts, 1):
        assert text.startswith(f"Passage {number}:\n")
        assert text.count("Passage ") == 1


def test_what_precedes_the_first_passage_is_a_chunk_too(splitter, tokenizer):
    row = replace(ROWS[0], context="In short:\nPassage 1:\nA b.\nPassage 2:\nC, see Passage 1: d.")
    _, chunks, _ = parts(splitter(chunking="passage").prompt(row))
    assert [tokenizer.decode(chunk) for chunk in chunks] == [
        "In short:\n",
        "Passage 1:\nA b.\n",
        "Passage 2:\nC, see Passage 1: d.",
    ]


@pytest.mark.parametrize("chunking", ["token", "passage"])
def test_an_empty_context_has_no_chunks(splitter, chunking):
    prefix, chunks, question = parts(
        splitter(chunking=chunking).prompt(replace(ROWS[0], context=""))
    )
    assert chunks == []
    assert prefix
    assert question


@pytest.mark.parametrize("chat", [True, False])
def test_the_frame_stands_around_instruction_and_question(splitter, tokenizer, chat):
    dataset, row = datasets.get("2wikimqa"), ROWS[1]
    prefix, _, question = parts(splitter(chat=chat).prompt(row))
    if chat:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "CONTENT"}], tokenize=False, add_generation_prompt=True
        )
        before, after = rendered.split("CONTENT")
    else:
        before = after = ""
    assert tokenizer.decode(prefix) == before + dataset.instruction
    assert tokenizer.decode(question) == dataset.ask(row.question) + after
    assert prefix.count(tokenizer.bos_token_id) == chat


@pytest.mark.parametrize("chunking", ["token", "passage"])
def test_a_long_context_loses_its_middle_to_the_token(splitter, tokenizer, chunking):
    for row in ROWS:
        whole = splitter(chunking=chunking).prompt(row)
        prefix, chunks, question = parts(whole)
        ids = list(chain(*chunks))
        frame_length = len(prefix) + len(question)
        for room in (1, 2, 31, 60, len(ids) - 1, len(ids), len(ids) + 1):
            limit = frame_length + room
            cut = splitter(chunking=chunking, max_length=limit).prompt(row)
            assert len(cut) == min(limit, len(whole))
            assert splitter(chunking=chunking, max_length=limit).split(row).lost == max(
                0, len(ids) - room
            )
            head, kept, tail = parts(cut)
            assert (head, tail) == (prefix, question)
            kept = list(chain(*kept))
            half = -(-room // 2)
            expected = ids if room >= len(ids) else ids[:half] + ids[len(ids) - (room - half) :]
            assert kept == expected


def test_a_question_that_does_not_fit_is_refused(splitter):
    row = ROWS[0]
    prefix, _, question = parts(splitter().prompt(row))
    room = len(prefix) + len(question)
    with pytest.raises(UserError, match=str(room)):
        splitter(max_length=room - 1).prompt(row)
    assert len(splitter(max_length=room).prompt(replace(row, context=""))) == room


def test_a_dataset_without_passages(splitter):
    with pytest.raises(UserError, match="multifieldqa_en has no passages"):
        splitter("multifieldqa_en", chunking="passage")


def test_drop_middle_is_brute_force():
    rng = random.Random(0)
    for _ in range(400):
        lengths = [rng.randint(0, 9) for _ in range(rng.randint(0, 5))]
        tokens = iter(range(1000))
        pieces = [[next(tokens) for _ in range(length)] for length in lengths]
        room = rng.randint(0, sum(lengths) + 2)
        kept = drop_middle(pieces, room)
        flat, everything = list(chain(*kept)), list(chain(*pieces))
        size = min(room, len(everything))
        assert len(flat) == size
        assert flat == everything[: -(-size // 2)] + everything[len(everything) - size // 2 :]
        assert all(kept)
        survivors = [[token for token in piece if token in flat] for piece in pieces]
        assert kept == [piece for piece in survivors if piece]


def test_a_special_token_named_in_a_document_is_ordinary_text(splitter, tokenizer):
    name, stop = tokenizer.eos_token, tokenizer.eos_token_id
    assert encode(tokenizer, name) == [stop]
    row = replace(ROWS[0], context=f"old {name} news", question=f"Who wrote {name}?")
    _prefix, chunks, question = parts(splitter().prompt(row))
    assert stop not in chain(*chunks)
    assert tokenizer.decode(list(chain(*chunks))) == row.context
    assert question.count(stop) == 1  # the end of the user's turn, from the chat template


@pytest.mark.parametrize("chunking", ["token", "passage"])
def test_documents_are_encoded_and_cut_each_by_itself(splitter, tokenizer, chunking):
    """Where one text ends inside a token of the whole, two documents share none."""
    whole = ROWS[0].context
    texts = (whole[:37], whole[37:38], whole[38:90])
    row = Row("d", "Which?", documents=texts)
    alone = [encode(tokenizer, text) for text in texts]
    split = splitter(chunking=chunking, chunk_size=4)
    prefix, chunks, question = parts(split.prompt(row))
    cut = [ids[at : at + 4] for ids in alone for at in range(0, len(ids), 4)]
    assert chunks == (alone if chunking == "passage" else cut)
    assert split.measure(row) == len(prefix) + sum(map(len, alone)) + len(question)
    assert row.context == "".join(texts)
    short = splitter(chunking=chunking, max_length=split.measure(row) - 3)
    assert short.split(row).lost == 3
    assert split.split(row).lost == 0


def test_a_context_that_is_not_its_documents_is_refused():
    assert Row("a", "Who?", "One. Two.", ("One. ", "Two.")).length == 3
    with pytest.raises(ValueError, match="row a: the context is not its documents joined"):
        Row("a", "Who?", "One. Two", ("One. ", "Two."))


def test_words_are_counted_unless_they_are_given():
    assert Row("a", "Who came?", "Ilka came.", answers=["Ilka", "she did"]).length == 7
    assert Row("a", "Who came?", "Ilka came.", length=0).length == 0
