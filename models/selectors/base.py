"""What a selector is: which document positions to recompute, and what that depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.extension import Extension, option
from models.finite import require_finite
from models.probe import Probe
from models.prompt import Prompt


class BaseSelector(ABC, Extension):
    """Chooses the positions that are recomputed in context.

    Attributes
    ----------
    adds_question : every question position is recomputed too (all but ``cat`` and ``attnlink``).
        Whoever asks for a check layer or a question pass needs it: both overwrite the KVs of the
        question's rows, and only recomputing them makes them whole again.
    knows_rate : the choice depends on the recompute ratio, and the engine holds it to the budget.
        Where it is False the rate is not looked at and any number of positions may be chosen
        (``cat``, ``full``, ``epic`` with ``lego_k``, ``attnlink`` with a file).
    oracle : it looks at a real full prefill; an upper bound, whose time is never reported.
    context, corrector : what the method, as published, captures chunks behind and does to the rows
        that it does not recompute; taken where ``CONTEXT`` and ``CORRECT`` name nothing else.
    """

    adds_question = True
    oracle = False
    context = "sink"
    corrector = "none"

    @property
    def knows_rate(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        """Scores found offline that it reads, as files of stage 2: ``surprisal``, ``sinks``."""
        return ()

    @property
    def deepest(self) -> int:
        """The deepest layer that it looks at; a model must have it."""
        return 0

    @abstractmethod
    def select(self, probe: Probe) -> Tensor:
        """Positions to recompute, integers ``[k]``, any order, unique, on any device.

        At most ``probe.budget`` document positions where :attr:`knows_rate`. With
        :attr:`adds_question` no others; without it any of the prompt, its last position among them.
        The engine refuses anything else, see :mod:`models.choice`.
        """

    def check_item(self, item_id: str, prompt: Prompt) -> None:
        """Raise :class:`UserError` where this item cannot be served, before anything is run."""


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest scores, ties to the lower index, in float32 or better.

    Raises
    ------
    NotFinite : a score is NaN or infinite: wherever it were sorted to would look like a choice.
    """
    if scores.dtype in (torch.bfloat16, torch.float16):
        raise TypeError("scores must be float32: summed in half precision they tie everywhere")
    require_finite(scores, "the selector's scores")
    return torch.sort(scores, descending=True, stable=True).indices[:k]


def check_layer(default: int = 1) -> Any:
    """The option of selectors that look at one layer."""
    return option(default, f"layer at which the method looks ({default})")


def require_layer(layer: int) -> None:
    """Refuse a layer below the first."""
    if layer < 0:
        raise UserError(f"CHECK_LAYER={layer} must be at least 0")
