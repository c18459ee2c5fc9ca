"""Selectors: which document positions to recompute. One file each, found by its name.

A selector is a dataclass named ``Selector`` in ``models/selectors/<name>.py`` with a method
``select(probe)`` that returns document positions; its fields are its options. A *spec* names a
selector with options of its own: ``debug``, ``debug:check=cached``, ``epic:lego_k=8``.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.spans import Prompt

ALIASES = {"a3": "debug", "cacheblend": "blend"}
FULL_PREFILL = "no"
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class BaseSelector(ABC):
    """Chooses the positions that are recomputed in context.

    Attributes
    ----------
    adds_question : every question position is recomputed too (all but ``cat`` and ``attnlink``).
        Whoever asks for a check layer or a question pass needs it: both overwrite the KVs of the
        question's rows, and only recomputing them makes them whole again.
    knows_rate : the choice depends on the recompute ratio.
    oracle : it looks at a real full prefill; an upper bound, whose time is never reported.
    """

    adds_question = True
    oracle = False

    @property
    def knows_rate(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        """Scores found offline that it reads, as files of stage 2: ``surprisal``, ``sinks``."""
        return ()

    @abstractmethod
    def select(self, probe: Probe) -> Tensor:
        """Positions to recompute, int64, any order, unique.

        At most ``probe.budget`` document positions; the last position of the prompt, too, where the
        selector does not leave the question to the engine.
        """

    def check_item(self, item_id: str, prompt: Prompt) -> None:  # noqa: B027 - most serve any item
        """Raise :class:`UserError` where this item cannot be served, before anything is run."""

    def identity(self) -> dict[str, Any]:
        """Everything that changes its choices: its options, and hashes of files they name."""
        return {field.name: getattr(self, field.name) for field in _options(type(self))}


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
    cls = _class(name)
    known = {field.name for field in _options(cls)}
    return cls(**{key: value for key, value in options.items() if key in known})


def build(spec: str, **defaults: Any) -> BaseSelector:
    """Build a selector from a spec.

    Parameters
    ----------
    defaults : options for whichever selector has them; those in the spec go before them.

    Raises
    ------
    UserError : unknown method or option, or a value that it does not take.
    """
    name, *settings = spec.split(":")
    if name == FULL_PREFILL:
        raise UserError(f"REUSE={spec}: no is the full prefill: it selects nothing, has no options")
    cls = _class(canonical(name))
    hints, own = get_type_hints(cls), {}
    known = [field.name for field in _options(cls)]
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise UserError(f"REUSE={spec}: {canonical(name)} has no option {key!r}; {has}")
        own[key] = _value(text, hints[key], f"REUSE={spec}: {key}")
    try:
        return make(canonical(name), **{**defaults, **own})
    except UserError as error:
        if str(error).startswith(tuple(map(str.upper, own))):  # said as if it were a variable
            raise UserError(f"REUSE={spec}: {error}") from None
        raise


def spec_of(selector: BaseSelector) -> str:
    """The shortest spec of a selector: its name and the options that are not at their default."""
    name = type(selector).__module__.rpartition(".")[2]
    changed = [
        f"{field.name}={_text(getattr(selector, field.name))}"
        for field in _options(type(selector))
        if getattr(selector, field.name) != field.default
    ]
    return ":".join([name, *changed])


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest scores, ties to the lower index, in float32 or better."""
    if scores.dtype in (torch.bfloat16, torch.float16):
        raise TypeError("scores must be float32: summed in half precision they tie everywhere")
    return torch.sort(scores, descending=True, stable=True).indices[:k]


def _class(name: str) -> type[BaseSelector]:
    return import_module(f"{__name__}.{name}").Selector


def _options(cls: Any) -> list[Any]:
    return [field for field in fields(cls) if field.init]


def _value(text: str, hint: Any, what: str) -> Any:
    """An option's value from its text, by the type of the field."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    try:
        return BOOLEANS[text.lower()] if kinds[0] is bool else kinds[0](text)
    except (ValueError, KeyError):
        raise UserError(f"{what} takes {kinds[0].__name__}, not {text!r}") from None


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
