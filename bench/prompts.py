"""Prompts of real text and of an exact length."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from data import hotpotqa
from models.spans import Prompt
from models.tokenizer import encode

QUESTION_TOKENS = 64
PREFIX_TOKENS = 32


def real_prompt(
    tokenizer: PreTrainedTokenizerBase, n: int, chunk_size: int, prefix: int = PREFIX_TOKENS
) -> Prompt:
    """``n`` tokens of HotpotQA paragraphs: prefix, chunks of ``chunk_size``, 64 of question."""
    rows, _, _ = hotpotqa.from_pack("hotpotqa_distractor", limit=1 + n // 400)
    ids = [token for row in rows for token in encode(tokenizer, row["context"])][:n]
    if len(ids) < n:
        raise ValueError(f"{len(rows)} rows hold {len(ids)} tokens, {n} were asked for")
    documents = ids[prefix : n - QUESTION_TOKENS]
    chunks = [documents[i : i + chunk_size] for i in range(0, len(documents), chunk_size)]
    return Prompt.join(ids[:prefix], chunks, ids[n - QUESTION_TOKENS :])
