"""What an answer decides, where it is one of a few: a class, or yes or no."""

from __future__ import annotations

import re
from collections.abc import Sequence

Decision = frozenset[str]
YES_NO = frozenset({"yes", "no"})


def same_decision(
    prediction: str,
    full: str,
    answers: Sequence[str],
    *,
    first_line: bool,
    all_classes: Sequence[str] | None,
) -> bool | None:
    """Whether an answer decides as the full prefill's does, right or wrong.

    None where there is nothing to decide: the item has no classes and its answers are not all yes
    or no, or the full prefill's answer names none of them.
    """
    choices = all_classes or (YES_NO if _is_yes_no(answers) else ())
    theirs = decision(full, choices, first_line)
    return None if not theirs else decision(prediction, choices, first_line) == theirs


def decision(text: str, choices: Sequence[str] | frozenset[str], first_line: bool) -> Decision:
    """The choices that an answer names; of yes and no the one that it begins with.

    A class whose name is part of a longer one that is named does not count as named.
    """
    if first_line:
        text = text.lstrip("\n").split("\n")[0]
    if choices == YES_NO:
        return frozenset(re.findall(r"\w+", text.lower())[:1]) & YES_NO
    named = [name for name in choices if name in text]
    return frozenset(
        name for name in named if not any(name in other and name != other for other in named)
    )


def _is_yes_no(answers: Sequence[str]) -> bool:
    return bool(answers) and all(answer.strip().lower() in YES_NO for answer in answers)
