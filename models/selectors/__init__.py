"""Selectors: which document positions to recompute. One file each, found by its name.

A selector is a dataclass named ``Selector`` in ``models/selectors/<name>.py`` with a method
``select(probe)`` that returns document positions; its fields are its options.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe

ALIASES = {"a3": "debug", "cacheblend": "blend"}
FULL_PREFILL = "no"


class BaseSelector(ABC):
    """Chooses the positions that are recomputed in context.

    Attributes
    ----------
    adds_question : every question position is recomputed too (all methods but ``cat``).
    dense_layers : layers that run on all rows before the choice, for the FLOP limit.
    """

    adds_question = True

    @property
    def dense_layers(self) -> int:
        return 0

    @abstractmethod
    def select(self, probe: Probe) -> Tensor:
        """Positions to recompute, int64, any order, unique; at most ``probe.budget`` of them."""


def names() -> list[str]:
    """All methods that ``REUSE`` takes, the full prefill included."""
    return sorted([FULL_PREFILL, *(m.name for m in pkgutil.iter_modules(__path__))])


def canonical(name: str) -> str:
    """Resolve an alias.

    Raises
    ------
    UserError : no such method; the nearest names are told.
    """
    name = ALIASES.get(name, name)
    if name not in names():
        known = names() + list(ALIASES)
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
        raise UserError(f"unknown method REUSE={name}: {hint}")
    return name


def make(name: str, **options: Any) -> BaseSelector:
    """Build a selector by its canonical name; options that it does not have are left out."""
    cls = import_module(f"{__name__}.{name}").Selector
    known = {field.name for field in fields(cls)}
    return cls(**{key: value for key, value in options.items() if key in known})


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest scores, ties to the lower index, in float32 or better."""
    if scores.dtype in (torch.bfloat16, torch.float16):
        raise TypeError("scores must be float32: summed in half precision they tie everywhere")
    return torch.sort(scores, descending=True, stable=True).indices[:k]
