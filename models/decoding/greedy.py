"""Greedy decoding, one token after another, each step timed by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.finite import require_finite
from models.timing import Stopwatch


@dataclass
class Decoded:
    """Greedy continuation.

    Attributes
    ----------
    tokens : the answer without the token that stopped it.
    step_ms : milliseconds of every token after the first, so that their mean is the TPOT.
    stop_token : what ended the answer, None when its length did.
    """

    tokens: list[int]
    step_ms: list[float] = field(default_factory=list)
    stop_token: int | None = None


def decode(
    device: torch.device,
    known: list[int],
    token: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    step: Callable[[int, int], tuple[int, Tensor]],
    aside: Callable[[], float] = lambda: 0.0,
) -> Decoded:
    """Go on until a stop token, or until there are ``max_new_tokens`` tokens.

    Parameters
    ----------
    known : the answer's beginning. token : what comes behind it.
    step : the token that follows one, and the logits it was taken from; told the token and its
        place in the answer.
    aside : milliseconds until now that are no part of a step.

    Raises
    ------
    NotFinite : logits hold NaN or infinite values.
    """
    out = Decoded(known)
    while len(out.tokens) < max_new_tokens:
        if token in stop_ids:
            out.stop_token = token
            break
        out.tokens.append(token)
        if len(out.tokens) == max_new_tokens:
            break
        before, watch = aside(), Stopwatch(device)
        token, logits = step(token, len(out.tokens) - 1)
        out.step_ms.append(watch.total() - (aside() - before))
        require_finite(logits, "the logits")
    return out
