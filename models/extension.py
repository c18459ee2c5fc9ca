"""What an extension is: a class found by name, whose fields are options that a spec may set."""

from __future__ import annotations

from dataclasses import Field, field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args

from models.errors import UserError

BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Extension:
    """A selector or a corrector; a dataclass, whose fields are its options."""

    def identity(self) -> dict[str, Any]:
        """Everything that changes what it does: its options, and hashes of files they name."""
        return {field.name: getattr(self, field.name) for field in option_fields(type(self))}


def option(default: Any, help: str) -> Any:
    """A field that a user may set, with what it is for."""
    return field(default=default, metadata={"help": help})


def option_fields(cls: Any) -> list[Field[Any]]:
    """The fields of an extension that a user may set."""
    return [found for found in fields(cls) if found.init] if is_dataclass(cls) else []


def changed_options(built: Extension) -> list[str]:
    """``name=value`` of the options that are not at their default, as a spec spells them."""
    return [
        f"{field.name}={_text(getattr(built, field.name))}"
        for field in option_fields(type(built))
        if getattr(built, field.name) != field.default
    ]


def value_of(text: str, hint: Any, what: str) -> Any:
    """An option's value from its text, by the type of the field.

    Raises
    ------
    UserError : it is none of that type; ``what`` begins the message.
    """
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    try:
        return BOOLEANS[text.lower()] if kinds[0] is bool else kinds[0](text)
    except (ValueError, KeyError):
        raise UserError(f"{what} takes {kinds[0].__name__}, not {text!r}") from None


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
