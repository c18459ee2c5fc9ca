"""Specs: a selector's name with options of its own, ``debug``, ``debug:check=cached``."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from models.errors import UserError
from models.selectors.base import BaseSelector, option_fields

ALIASES = {"a3": "debug", "cacheblend": "blend"}
FULL_PREFILL = "no"
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
SUPPORT = ("base", "spec", "shares")  # modules of the package that are no methods


def names() -> list[str]:
    """All methods that ``REUSE`` takes, the full prefill included."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted([FULL_PREFILL, *(name for name in found if name not in SUPPORT)])


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
    known = {field.name for field in option_fields(cls)}
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
    known = [field.name for field in option_fields(cls)]
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
        for field in option_fields(type(selector))
        if getattr(selector, field.name) != field.default
    ]
    return ":".join([name, *changed])


def _class(name: str) -> type[BaseSelector]:
    return import_module(f"{__package__}.{name}").Selector


def _value(text: str, hint: Any, what: str) -> Any:
    """An option's value from its text, by the type of the field."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    try:
        return BOOLEANS[text.lower()] if kinds[0] is bool else kinds[0](text)
    except (ValueError, KeyError):
        raise UserError(f"{what} takes {kinds[0].__name__}, not {text!r}") from None


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
