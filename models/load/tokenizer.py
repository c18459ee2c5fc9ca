"""Tokenizers: loading, identity, the chat frame around a prompt, and where generation stops."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.errors import UserError
from models.load.source import ModelSource, fetch

_SENTINEL = "KVFUSE7SENTINEL"
# For templates that know them: no reasoning block before the answer, and no prompt that changes
# from day to day (Llama 3.2 would print today's date; this is the date its authors fall back to).
_TEMPLATE_OPTIONS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class Frame:
    """What stands around a user message, as text and as token ids.

    The prefix of a prompt is `encode(header_text + instruction)` and its end
    `encode(question + footer_text)`: encoded in one go, as tokens may span the seam; `header` and
    `footer` are the ids of the two texts alone. `sink` goes in front of a chunk that is captured
    by itself, so that it has an attention sink; it is dropped afterwards.
    """

    header_text: str
    footer_text: str
    header: list[int]
    footer: list[int]
    sink: list[int]


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The fast tokenizer of `source`; raises `UserError` where it cannot be had."""
    tokenizer = fetch(source, AutoTokenizer.from_pretrained, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(
            f"model '{source.name}' has no fast tokenizer (tokenizer.json), which we need"
        )
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over all that decides how text becomes ids.

    That is the tokenizer's own JSON without its truncation and padding state, which a mere call
    changes, the chat template and the special tokens.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    identity = json.dumps([state, tokenizer.chat_template, special], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, foreign: bool = False) -> list[int]:
    """The ids of `text` and nothing else: no BOS, no EOS.

    In `foreign` text, a document or a question, the name of a special token is ordinary text: an
    `<|im_end|>` in a web page must not end the user's turn.
    """
    return tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=foreign, verbose=False
    )


def frame(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, chat: bool) -> Frame:
    """The frame of a prompt: the tokenizer's own chat template, or plain text.

    A chat header is the template's text up to the user's message, BOS included if and only if the
    template writes one. Plain (`chat` false, or a tokenizer without a template) it is what the
    tokenizer itself puts in front of a text. Raises `UserError` if the template does not render a
    user message verbatim exactly once.
    """
    if chat and tokenizer.chat_template:
        header_text, footer_text = _split(tokenizer, [_SENTINEL], add_generation_prompt=True)
        header = encode(tokenizer, header_text)
    else:
        header, footer_text = _leading_specials(tokenizer), ""
        header_text = str(tokenizer.decode(header, skip_special_tokens=False))
        if encode(tokenizer, header_text) != header:
            raise UserError(f"the tokenizer's leading tokens {header} do not survive as text")
    fallbacks = (tokenizer.bos_token_id, config.bos_token_id, tokenizer.eos_token_id)
    sink = header[:1] or [token for token in fallbacks if token is not None][:1]
    return Frame(header_text, footer_text, header, encode(tokenizer, footer_text), sink)


def stop_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None
) -> frozenset[int]:
    """The ids that end an answer: every declared EOS, and the template's end of turn.

    The end of turn is the special token that directly follows an assistant message where the
    template renders one, whatever the family calls it. BOS is never among them unless it is also
    declared as EOS. Raises `UserError` for one that is no token's number.
    """
    declared = getattr(generation_config, "eos_token_id", None)
    found = [*declared] if isinstance(declared, (list, tuple)) else [declared]
    for token in found:
        if type(token) not in (int, type(None)):
            raise UserError(f"eos_token_id of generation_config.json: {token!r}; mend the file")
    found.append(tokenizer.eos_token_id)
    end = _end_of_turn(tokenizer)
    if end != tokenizer.bos_token_id:
        found.append(end)
    return frozenset(token for token in found if token is not None)


def _split(tokenizer: PreTrainedTokenizerBase, turns: list[str], **options: Any) -> tuple[str, str]:
    """The rendered conversation before and after the sentinel, which must stand in it once."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, **_TEMPLATE_OPTIONS, **options
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"the chat template cannot render a user message: {error}") from error
    parts = str(rendered).split(_SENTINEL)
    if len(parts) != 2:
        raise UserError(
            f"the chat template renders a message {len(parts) - 1} times, not once: "
            "use CHAT=0 for a plain prompt"
        )
    return parts[0], parts[1]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    if not tokenizer.chat_template:
        return None
    try:
        _, after = _split(tokenizer, ["Hello", _SENTINEL])
    except UserError:  # a template without assistant turns: the declared EOS must do
        return None
    ids = encode(tokenizer, after.lstrip())
    special = ids and ids[0] in tokenizer.added_tokens_decoder
    return ids[0] if special and tokenizer.added_tokens_decoder[ids[0]].special else None


def _leading_specials(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer by itself puts in front of a text (BOS, or nothing)."""
    bare = encode(tokenizer, "a")
    full = tokenizer.encode("a", add_special_tokens=True, verbose=False)
    starts = range(len(full) - len(bare) + 1)
    return full[: next(i for i in starts if full[i : i + len(bare)] == bare)]
