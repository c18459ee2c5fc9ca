"""What each token adds to a text, whatever the tokenizer does at a text's beginning."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eval.report.page.texts import REST, texts
from eval.report.page.tokens import changes
from tests.stages.harness import make_tokenizer

TEXTS = (
    "The ferry leaves at noon.",
    " two blanks  inside\n\nand lines\n",
    "<script>alert('&amp;')</script>",
    "灯 Åsa, 灯塔 and 🗼!",
)


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama 2's: a blank is written into the token behind it, and the first one dropped."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(["The ferry leaves at noon and two blanks inside"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [make_tokenizer, metaspace])
def test_the_tokens_texts_are_the_text(make, text):
    tokenizer = make()
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = texts(tokenizer, ids)
    assert len(found) == len(ids)
    joined = "".join(one for one in found if one != REST)
    # Where a text begins, such a tokenizer writes a blank of its own.
    assert joined.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")


def test_a_character_of_several_tokens_stands_once():
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("a🗼b", add_special_tokens=False)
    assert texts(tokenizer, ids) == ["a", "🗼", *[REST] * (len(ids) - 3), "b"]
    assert len(ids) > 4


def test_half_a_character_is_no_trouble():
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("🗼", add_special_tokens=False)[:2]
    assert len(texts(tokenizer, ids)) == 2


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a b", "a b", [("same", "a b")]),
        ("a b", "a c", [("same", "a "), ("gone", "b"), ("added", "c")]),
        ("", "a", [("added", "a")]),
        ("a", "", [("gone", "a")]),
        ("", "", []),
    ],
)
def test_what_differs_between_answers(before, after, found):
    assert changes(before, after) == found
