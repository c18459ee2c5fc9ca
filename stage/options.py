"""A command's options: one dataclass, spelled ``RATE=0.15`` or ``--rate 0.15``, and its errors.

Both spellings mean the same, with or without Make. Nothing is taken from the environment, and
nothing that is not an option is ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.errors import UserError

C = TypeVar("C")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
# Whole numbers that Python counts up to and torch seeds with: under 2^63, the sum of two as well.
LARGEST = 10**18
_WANTED = {int: "a whole number", float: "a number", bool: "1 or 0", str: "a text"}


def option(default: Any, help: str) -> Any:
    """A dataclass field that is an option, with its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Option:
    """One option of a command: its name in lower case, its type and what it is for."""

    name: str
    hint: Any
    help: str
    default: Any = None

    @property
    def variable(self) -> str:
        """As Make spells it."""
        return self.name.upper()

    @property
    def kinds(self) -> list[Any]:
        """The type, or the types of a union but None; of a list those of its entries."""
        hint = get_args(self.hint)[0] if self.is_list else self.hint
        return [kind for kind in get_args(hint) if kind is not NoneType] or [hint]

    @property
    def is_list(self) -> bool:
        return get_origin(self.hint) is list

    def value(self, text: str) -> Any:
        """The option's value from its text.

        Raises
        ------
        UserError : it is empty, not of this type, or a whole number that is too large.
        """
        if not text.strip():
            raise UserError(f"{self.variable}= has no value; leave it out for its default")
        raw: Any = words(text, self.variable) if self.is_list else text
        if not raw:
            raise UserError(f"{self.variable}={text!r} names nothing; leave it out for its default")
        try:
            found = TypeAdapter(self.hint).validate_python(raw)
        except ValidationError:
            kind = " or ".join(_WANTED.get(kind, str(kind)) for kind in self.kinds)
            each = f"{kind}, or several" if self.is_list else kind
            raise UserError(f"{self.variable}={text!r}: give {each}") from None
        for number in found if self.is_list else [found]:
            if isinstance(number, int) and abs(number) > LARGEST:
                raise UserError(f"{self.variable}={text}: whole numbers go up to 10^18")
        return found


def options_of(config_class: Any) -> dict[str, Option]:
    """The options of a configuration dataclass by name."""
    hints = get_type_hints(config_class)
    return {
        item.name: Option(item.name, hints[item.name], item.metadata["help"], item.default)
        for item in fields(config_class)
        if "help" in item.metadata
    }


def defaults_of(config_class: Any) -> dict[str, Any]:
    """The options' defaults by name; nothing is checked, as making a configuration would."""
    return {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(config_class)
        if "help" in item.metadata
    }


def words(text: str, variable: str) -> list[str]:
    """A list's entries, parted by blanks or commas; quotes hold an entry together.

    Raises
    ------
    UserError : a quote is not closed.
    """
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace += ","
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise UserError(f"{variable}={text!r}: {str(error).lower()}; close the quote") from None


def read_arguments(arguments: Sequence[str], options: Mapping[str, Option]) -> dict[str, str]:
    """Texts by lower-case name, from ``NAME=value``, ``--name value`` and ``--name=value``.

    Names that are not in ``options`` are kept: who knows further ones has to look at them.

    Raises
    ------
    UserError : a word that is neither, an option without a value, or one that is named twice.
    """
    found: dict[str, str] = {}

    def keep(name: str, text: str) -> None:
        if name in found:
            raise UserError(f"{name.upper()} is named twice; name it once")
        found[name] = text

    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            name = name.replace("-", "_").lower()
            if not equals:
                known = options.get(name)
                values = _values(rest, known is not None and known.is_list)
                if not values and not (known and known.kinds == [bool]):
                    raise UserError(f"--{name.replace('_', '-')} has no value; name one")
                text = " ".join(map(shlex.quote, values)) if len(values) > 1 else (*values, "1")[0]
            keep(name, text)
        elif match := _VARIABLE.fullmatch(word):
            if not match[1].isupper():
                raise UserError(f"{word}: variables are upper case: {match[1].upper()}={match[2]}")
            keep(match[1].lower(), match[2])
        else:
            raise UserError(f"'{word}' is neither VARIABLE=value nor --option; see --help")
    return found


def _values(rest: list[str], several: bool) -> list[str]:
    """Take the words that belong to an option off the front of ``rest``."""
    values: list[str] = []
    while rest and not rest[0].startswith("--") and (several or not values):
        values.append(rest.pop(0))
    return values


def parse(
    config_class: type[C],
    arguments: Sequence[str],
    more: Callable[[C], Iterable[Option]] | None = None,
    **defaults: Any,
) -> C:
    """Build a configuration from a command line.

    Parameters
    ----------
    more : further options, asked for when a name is not the dataclass's own: they may take long to
        find. Their values go into the configuration's ``method_options``.
    defaults : what holds where an option is not named, instead of the dataclass's default.

    Raises
    ------
    UserError : an unknown name, with the nearest known one, or a bad value.
    """
    options = options_of(config_class)
    texts = read_arguments(arguments, options)
    own = {name: options[name].value(text) for name, text in texts.items() if name in options}
    unknown = [name for name in texts if name not in options]
    if unknown and more is None:
        raise _unknown(unknown[0], options)
    config = config_class(**{**defaults, **own})
    if hasattr(config, "given"):
        config.given.update(texts)
    if unknown and more is not None:
        known = {found.name: found for found in more(config)}
        for name in unknown:
            if name not in known:
                raise _unknown(name, [*options, *known])
        config.method_options.update({n: known[n].value(texts[n]) for n in unknown})  # type: ignore[attr-defined]
    return config


def _unknown(name: str, known: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(str.upper, near))}?" if near else "see --help"
    return UserError(f"unknown variable {name.upper()}: {hint}")


def note_environment(options: Iterable[str], how: str) -> None:
    """Say on stderr which options the environment holds in vain."""
    names = sorted(name.upper() for name in options if name.upper() in os.environ)
    if names:
        print(f"note: {', '.join(names)} in the environment is not taken; {how}", file=sys.stderr)


def help_of(options: Iterable[Option]) -> str:
    """One line an option, for people."""
    found = list(options)
    width = max((len(item.variable) for item in found), default=0)
    return "\n".join(f"  {item.variable:<{width}}  {item.help}" for item in found)


def exit_code(main: Callable[[], None], name: str) -> int:
    """Run a command and tell its errors in one line.

    Returns
    -------
    0 on success; 2 with one line on stderr for a :class:`UserError` or where memory is out; 130
    when interrupted; 141 where the reader of stdout has gone. Anything else is a bug of ours and
    keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; what is finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError is a RuntimeError; torch need not be there to recognise it.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        reason = str(error).splitlines()[0] if str(error) else "no room left"
        print(
            f"{name}: out of memory ({reason}); set DTYPE=bfloat16, a smaller MAX_LENGTH or MODEL",
            file=sys.stderr,
        )
        return 2
    return 0


def command(
    name: str,
    config_class: type[C],
    main: Callable[[C], None],
    arguments: Sequence[str] | None = None,
    more: Callable[[C], Iterable[Option]] | None = None,
) -> int:
    """Parse a command line, ``sys.argv``'s by default, and run ``main``; see :func:`exit_code`."""
    words_given = sys.argv[1:] if arguments is None else list(arguments)

    def run() -> None:
        if {"-h", "--help"} & set(words_given):
            print(f"{config_class.__doc__}\n\nVARIABLE=value, or --variable value:\n")
            print(help_of(options_of(config_class).values()))
        else:
            main(parse(config_class, words_given, more))

    return exit_code(run, name)
