"""Whole prompts, decoded and read: BOS, chat header, truncation, chunks, question, footer.

The golden files were written by hand from each family's chat template and the benchmark's prompts;
⟦|⟧ stands between segments. The tokenizers have one token per character, so that 40 tokens of room
leave the first and the last 20 characters of the context.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from data import datasets
from data.row import Row
from data.segments import Splitter, Splitting
from models.load.tokenizer import frame
from tests.models.test_tokenizer import NO_BOS, TEMPLATES, make

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ROW = Row(
    "one",
    "When did it fall?",
    "Passage 1:\nIlka\nIlka is a tower. None of this fits in. The tower fell in 1950.",
)


@pytest.mark.parametrize("family", sorted(TEMPLATES))
@pytest.mark.parametrize("name", ["2wikimqa", "trec"])
def test_the_assembled_prompt_reads_as_written(family, name):
    dataset, tokenizer = datasets.get(name), make(family)
    framing = frame(tokenizer, NO_BOS, dataset.chat)
    roomy = Splitter(dataset, tokenizer, framing, Splitting("token", 20, 10**6, dataset.chat))
    room = roomy.measure(replace(ROW, context="")) + 40
    splitter = Splitter(dataset, tokenizer, framing, Splitting("token", 20, room, dataset.chat))
    prompt = splitter.prompt(ROW)
    assert len(prompt) == room
    texts = [tokenizer.decode(prompt.ids[slice(*span)]) for span in prompt.segments]
    read = "⟦|⟧".join(texts) + "⟦end⟧\n"
    assert read == (GOLDEN / f"{family}-{name}.txt").read_text(encoding="utf-8")
