"""The prompt around one's own documents: a template, and what stands there by default."""

from __future__ import annotations

import os
from pathlib import Path

from models.errors import UserError

# LongBench's prompt for questions on several documents.
_ASKED = (
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words."
)
DEFAULT = (
    f"{_ASKED}\n\nThe following are given passages.\n{{context}}\n\n{_ASKED}\n\n"
    "Question: {question}\nAnswer:"
)


def split(template: str | None) -> tuple[str, str]:
    r"""What stands before the context, and what after it with the question as ``{input}``.

    `template` is a text, in which ``\n`` is a line end, or a file of UTF-8 text; None is the
    default. Raises UserError unless it has ``{context}`` once and, after it, ``{question}`` once.
    """
    text = DEFAULT if template is None else _text(template)
    for name in ("{context}", "{question}"):
        if (count := text.count(name)) != 1:
            raise UserError(
                f"PROMPT={_short(template)} must have {{context}} and {{question}} once each, as a "
                f"text or in a file: it has {count} of {name}"
            )
    before, after = text.split("{context}")
    if "{question}" in before:
        raise UserError(
            f"PROMPT={_short(template)} asks before the context: put {{question}} after {{context}}"
        )
    if "{input}" in after:
        raise UserError(f"PROMPT={_short(template)} must not have {{input}} after the context")
    return before, after.replace("{question}", "{input}")


def _text(template: str) -> str:
    if not os.path.isfile(os.path.expanduser(template)):
        return template.replace("\\n", "\n")
    path = Path(template).expanduser()
    try:
        return path.read_bytes().decode("utf-8-sig").rstrip("\n")
    except UnicodeDecodeError:
        raise UserError(f"PROMPT={path}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"PROMPT={path} cannot be read ({error.strerror or error})") from None


def _short(template: str | None) -> str:
    line = " ".join((template or "").split())
    return line if len(line) <= 60 else f"{line[:60]}…"
