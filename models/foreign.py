"""Extensions may be anybody's code: what one raises is told in one line, with its place."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from models.errors import UserError

R = TypeVar("R")


def ask(what: str, method: Callable[..., R], *given: Any) -> R:
    """What a method of an extension returns.

    Raises
    ------
    UserError : it failed; ``what`` begins the message.
    """
    try:
        return method(*given)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = frames[min(1, len(frames) - 1)]
        raise UserError(
            f"{what} failed with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]} ({at.filename}, line {at.lineno})"
        ) from error


def called(kind: str, extension: object) -> str:
    """``selector debug``: how a message names an extension."""
    return f"{kind} {type(extension).__module__.rpartition('.')[2]}"


def told(found: Any) -> str:
    """What something is that should have been another tensor, for a message."""
    if isinstance(found, torch.Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    return f"a {type(found).__name__}, not a tensor"
