"""Prompts of an exact length."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from data.sources import hotpotqa
from models.load.tokenizer import encode
from models.prompt import Prompt

QUESTION_TOKENS = 64
PREFIX_TOKENS = 32


def lay_out(ids: Sequence[int], chunk_size: int, prefix: int = PREFIX_TOKENS) -> Prompt:
    """``ids`` as a prompt: prefix, chunks of ``chunk_size`` tokens, 64 of question."""
    documents = ids[prefix:-QUESTION_TOKENS]
    chunks = [documents[i : i + chunk_size] for i in range(0, len(documents), chunk_size)]
    return Prompt.join(ids[:prefix], chunks, ids[-QUESTION_TOKENS:])


def real_prompt(
    tokenizer: PreTrainedTokenizerBase, n: int, chunk_size: int, prefix: int = PREFIX_TOKENS
) -> Prompt:
    """``n`` tokens of HotpotQA paragraphs."""
    rows, _, _ = hotpotqa.from_pack(limit=1 + n // 400)
    ids = [token for row in rows for token in encode(tokenizer, row.context)][:n]
    if len(ids) < n:
        raise ValueError(f"{len(rows)} rows hold {len(ids)} tokens, {n} were asked for")
    return lay_out(ids, chunk_size, prefix)
