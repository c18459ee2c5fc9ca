"""Specs: a selector's name with options of its own, ``debug``, ``debug:check=cached``.

A name is one of the files in this folder, a path to a selector's file elsewhere, or an entry point
of the group ``kvfuse.selectors``.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import re
import sys
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, get_args, get_type_hints

from models.code import code_digest, text_digest
from models.errors import UserError
from models.selectors.base import BaseSelector, option_fields

ALIASES = {"a3": "debug", "cacheblend": "blend"}
FULL_PREFILL = "no"
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
SUPPORT = ("base", "spec", "shares")  # modules of this folder that are no methods
GROUP = "kvfuse.selectors"
_REGISTERED: dict[str, type[BaseSelector]] = {}
_LOADED: dict[str, str] = {}  # modules made of files elsewhere: hashes of what was run
# A colon begins an option only where a name follows, so a path may hold colons.
_OPTION = re.compile(r":(?=[A-Za-z_]\w*(?:=|$|:)|$)")


def names() -> list[str]:
    """All methods that ``REUSE`` takes by name, the full prefill included."""
    return sorted({*_built_in(), *_entry_points(), *_REGISTERED})


def register(name: str, cls: type[BaseSelector]) -> None:
    """Make a selector's class known by a name for this process.

    Raises
    ------
    UserError : the name is taken, or it is no selector.
    """
    if name in names() and _REGISTERED.get(name) is not cls:
        raise UserError(f"a method {name!r} is there already; register it by another name")
    _REGISTERED[name] = _checked(cls, name)


def canonical(name: str) -> str:
    """Resolve an alias; a path stays as it is.

    Raises
    ------
    UserError : no such method; the nearest names are told.
    """
    name = ALIASES.get(name, name)
    if _is_path(name) or name in names():
        return name
    known = names() + list(ALIASES)
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
    raise UserError(f"unknown method REUSE={name}: {hint}")


def selector_class(spec: str) -> type[BaseSelector]:
    """The class that a spec names, its options left aside.

    Raises
    ------
    UserError : no such method, or a file that holds none.
    """
    name = canonical(_OPTION.split(spec)[0])
    if _is_path(name):
        return _from_file(Path(name).expanduser().resolve())
    if name in _REGISTERED:
        return _REGISTERED[name]
    if point := _entry_points().get(name):
        return _checked(point.load(), f"the entry point {point.value}")
    return import_module(f"{__package__}.{name}").Selector


def make(name: str, **options: Any) -> BaseSelector:
    """Build a selector by its name; options that it does not have are left out."""
    cls = selector_class(name)
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
    name, *settings = _OPTION.split(spec)
    if name == FULL_PREFILL:
        raise UserError(f"REUSE={spec}: no is the full prefill: it selects nothing, has no options")
    cls = selector_class(name)
    hints, own = get_type_hints(cls), {}
    known = [field.name for field in option_fields(cls)]
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise UserError(f"REUSE={spec}: {name_of(cls)} has no option {key!r}; {has}")
        own[key] = _value(text, hints[key], f"REUSE={spec}: {key}")
    try:
        return make(name, **{**defaults, **own})
    except UserError as error:
        if str(error).startswith(tuple(map(str.upper, own))):  # said as if it were a variable
            raise UserError(f"REUSE={spec}: {error}") from None
        raise


def name_of(cls: type[BaseSelector]) -> str:
    """The name of a selector's class: the one it was registered by, or that of its file."""
    registered = (name for name, known in _REGISTERED.items() if known is cls)
    return next(registered, cls.__module__.rpartition(".")[2])


def spec_of(selector: BaseSelector) -> str:
    """The shortest spec of a selector: its name and the options that are not at their default."""
    changed = [
        f"{field.name}={_text(getattr(selector, field.name))}"
        for field in option_fields(type(selector))
        if getattr(selector, field.name) != field.default
    ]
    return ":".join([name_of(type(selector)), *changed])


def code_of(selector: BaseSelector) -> str:
    """Hash of the source that a selector's choices depend on: its file, and what that imports.

    It is that of the source that runs: an edit that comes later is another selector's.
    """
    cls = type(selector)
    return _LOADED.get(cls.__module__) or _code_of(cls)


@cache
def _code_of(cls: type[BaseSelector]) -> str:
    if cls.__module__.startswith(f"{__package__}."):
        return code_digest(cls.__module__)
    path = inspect.getsourcefile(cls)
    return text_digest(Path(path).read_bytes() if path else b"")


def _is_path(name: str) -> bool:
    return name.endswith(".py")


@cache
def _built_in() -> frozenset[str]:
    found = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return frozenset({FULL_PREFILL, *found.difference(SUPPORT)})


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _from_file(path: Path) -> type[BaseSelector]:
    """The selector of a file outside this folder, as it stands there now."""
    if not path.is_file():
        raise UserError(f"REUSE={path}: no such file; name a file that holds a selector")
    if path.stem in _built_in() | ALIASES.keys():
        raise UserError(f"REUSE={path}: there is a method {path.stem} already; rename the file")
    return _from_source(path, path.read_bytes())


@cache
def _from_source(path: Path, source: bytes) -> type[BaseSelector]:
    """The selector of these bytes; its own errors are told in one line.

    Python's import would take compiled code of an earlier state for a file that was edited within
    a second.
    """
    digest = hashlib.sha256(str(path).encode() + source).hexdigest()
    module = ModuleType(f"kvfuse_selectors_{digest[:8]}.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their annotations there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        _LOADED[module.__name__] = text_digest(source)
    except Exception as error:
        raise UserError(f"REUSE={path}: {type(error).__name__}: {error}; mend the file") from error
    return _checked(getattr(module, "Selector", None), str(path))


def _checked(found: Any, where: str) -> type[BaseSelector]:
    if not (isinstance(found, type) and issubclass(found, BaseSelector)):
        raise UserError(
            f"REUSE: {where} holds no selector: a dataclass Selector, derived from "
            "models.selectors.BaseSelector"
        )
    if inspect.isabstract(found):
        raise UserError(f"REUSE: the selector of {where} has no method select(probe); add it")
    return found


def _value(text: str, hint: Any, what: str) -> Any:
    """An option's value from its text, by the type of the field."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    try:
        return BOOLEANS[text.lower()] if kinds[0] is bool else kinds[0](text)
    except (ValueError, KeyError):
        raise UserError(f"{what} takes {kinds[0].__name__}, not {text!r}") from None


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
