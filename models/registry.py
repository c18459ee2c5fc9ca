"""Extensions of a kind by their names, in this project, a file or a package; built from specs.

A spec is a name with options of its own, ``debug``, ``debug:check=cached``. A name is one of the
files of the kind's folder, a path to a file elsewhere, or an entry point of its group.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, get_type_hints

from models.code import ROOT, code_digest, companions, text_digest
from models.errors import UserError
from models.extension import Extension, changed_options, option_fields, value_of
from models.paths import user_path

# A colon begins an option only where a name follows, so a path may hold colons.
_OPTION = re.compile(r":(?=[A-Za-z_]\w*(?:=|$|:)|$)")


E = TypeVar("E", bound=Extension)
Built = dict[str, tuple[E | None, str | None]]  # by spec, each with the hash of its source


@dataclass(eq=False)
class Registry(Generic[E]):
    """All extensions of one kind.

    Attributes
    ----------
    package : of the built-in ones, a file each; ``support`` are its modules that hold none.
    base : what they derive from.
    noun : what one is called; its class is called so too.
    many : what a name of ``variable`` is called.
    method : what ``base`` leaves to them, as it is called.
    nothing : the name that stands for none of them; ``nothing_says`` what it does instead.
    """

    package: str
    base: Any
    noun: str
    many: str
    method: str
    variable: str
    group: str
    nothing: str
    nothing_says: str
    support: Collection[str] = ("base",)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._registered: dict[str, type[E]] = {}
        self._loaded: dict[str, str] = {}  # modules made of files elsewhere: hashes of what was run
        self._classes: dict[tuple[Path, bytes], type[E]] = {}

    def names(self) -> list[str]:
        """All that the variable takes by name, ``nothing`` included."""
        return sorted({*self._built_in, *self.entry_points, *self._registered})

    def register(self, name: str, cls: type[E]) -> None:
        """Make a class known by a name for this process.

        Raises
        ------
        UserError : the name is taken, or the class is none of the kind.
        """
        if name in self.names() and self._registered.get(name) is not cls:
            raise UserError(f"a {self.many} {name!r} is there already; register it by another name")
        self._registered[name] = self._checked(cls, name)

    def canonical(self, name: str) -> str:
        """Resolve an alias; a path stays as it is.

        Raises
        ------
        UserError : no such name; the nearest ones are told.
        """
        name = self.aliases.get(name, name)
        if _is_path(name) or name in self.names():
            return name
        known = self.names() + list(self.aliases)
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
        raise UserError(f"unknown {self.many} {self.variable}={name}: {hint}")

    def find(self, spec: str) -> type[E]:
        """The class that a spec names, its options left aside.

        Raises
        ------
        UserError : no such name, or a file that holds none of the kind.
        """
        name = self.canonical(_OPTION.split(spec)[0])
        if _is_path(name):
            return self._from_file(user_path(name, f"{self.variable}=").resolve())
        if name in self._registered:
            return self._registered[name]
        if point := self.entry_points.get(name):
            return self._checked(point.load(), f"the entry point {point.value}")
        found: type[E] = getattr(import_module(f"{self.package}.{name}"), self._class)
        return found

    def make(self, name: str, **options: Any) -> E:
        """Build one by its name; options that it does not have are left out.

        Raises
        ------
        UserError : unknown name, or a value that it does not take; no number is NaN or infinite.
        """
        cls = self.find(name)
        known = {field.name for field in option_fields(cls)}
        own = {key: value for key, value in options.items() if key in known}
        built = cls(**own)
        for key, value in own.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key.upper()}={value} must be a finite number")
        return built

    def build(self, spec: str, **defaults: Any) -> E:
        """Build one from a spec.

        Parameters
        ----------
        defaults : options for whichever has them; those in the spec go before them.

        Raises
        ------
        UserError : unknown name or option, or a value that it does not take.
        """
        name, *settings = _OPTION.split(spec)
        named = f"{self.variable}={spec}"
        if name == self.nothing:
            raise UserError(f"{named}: {self.nothing_says}, has no options")
        cls = self.find(name)
        hints, own = get_type_hints(cls), {}
        known = [field.name for field in option_fields(cls)]
        for setting in settings:
            key, _, text = setting.partition("=")
            if key not in known:
                has = f"its options are {', '.join(known)}" if known else "it has none"
                raise UserError(f"{named}: {self.name_of(cls)} has no option {key!r}; {has}")
            own[key] = value_of(text, hints[key], f"{named}: {key}")
        try:
            return self.make(name, **{**defaults, **own})
        except UserError as error:
            if str(error).startswith(tuple(map(str.upper, own))):  # said as if it were a variable
                raise UserError(f"{named}: {error}") from None
            raise

    def build_or_none(self, spec: str, **defaults: Any) -> E | None:
        """As :meth:`build`; None for ``nothing``."""
        return None if spec == self.nothing else self.build(spec, **defaults)

    def add(self, found: Built[E], name: str, **defaults: Any) -> None:
        """Build one and put it under its spec, with the hash of its source; ``nothing`` as well.

        Raises
        ------
        UserError : as :meth:`build`, or another class of the same spec is there.
        """
        built = self.build_or_none(name, **defaults)
        spec, code = self.spec_or_nothing(built), self.code_of(built) if built else None
        if type(found.setdefault(spec, (built, code))[0]) is not type(built):
            raise UserError(
                f"{self.variable}={name}: another {self.noun} {spec} is named too; rename a file"
            )

    def name_of(self, cls: type[E]) -> str:
        """The name of a class: the one it was registered by, or that of its file."""
        registered = (name for name, known in self._registered.items() if known is cls)
        return next(registered, cls.__module__.rpartition(".")[2])

    def spec_of(self, built: E) -> str:
        """The shortest spec: the name and the options that are not at their default."""
        return ":".join([self.name_of(type(built)), *changed_options(built)])

    def spec_or_nothing(self, built: E | None) -> str:
        """As :meth:`spec_of`; ``nothing`` for None."""
        return self.nothing if built is None else self.spec_of(built)

    def code_of(self, built: E) -> str:
        """Hash of the source that it depends on: its file, and what that imports of this project.

        Of one from elsewhere also the files of the classes that it derives from, and those that it
        imports of its own package, or from beside a file (:func:`models.code.companions`).
        It is that of the source that runs: an edit that comes later is another's.
        """
        cls: Any = type(built)
        return self._loaded.get(cls.__module__) or _code_of(cls, f"{self.package}.")

    @property
    def _class(self) -> str:
        return self.noun.capitalize()

    @cached_property
    def _built_in(self) -> frozenset[str]:
        folder = Path(str(import_module(self.package).__file__)).parent
        found = {module.name for module in pkgutil.iter_modules([str(folder)])}
        return frozenset({self.nothing, *found.difference(self.support)})

    @cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """Those that installed packages make known, by name."""
        return {point.name: point for point in entry_points(group=self.group)}

    def _from_file(self, path: Path) -> type[E]:
        """The class of a file outside the package, as it stands there now."""
        named = f"{self.variable}={path}"
        if not path.is_file():
            raise UserError(f"{named}: no such file; name a file that holds a {self.noun}")
        if path.stem in self._built_in | self.aliases.keys():
            raise UserError(f"{named}: there is a {self.many} {path.stem} already; rename the file")
        key = (path, path.read_bytes())
        if key not in self._classes:
            self._classes[key] = self._from_source(*key)
        return self._classes[key]

    def _from_source(self, path: Path, source: bytes) -> type[E]:
        """The class of these bytes; its own errors are told in one line.

        Python's import would take compiled code of an earlier state for a file that was edited
        within a second.
        """
        digest = hashlib.sha256(str(path).encode() + source).hexdigest()
        module = ModuleType(f"kvfuse_{self.noun}s_{digest[:8]}.{path.stem}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses look up their annotations there
        try:
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        except Exception as error:
            named = f"{self.variable}={path}"
            raise UserError(f"{named}: {type(error).__name__}: {error}; mend the file") from error
        found = self._checked(getattr(module, self._class, None), str(path))
        others = companions(path, source) | _bases(found)
        self._loaded[module.__name__] = text_digest(source, others - {path})
        return found

    def _checked(self, found: Any, where: str) -> type[E]:
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise UserError(
                f"{self.variable}: {where} holds no {self.noun}: a dataclass {self._class}, "
                f"derived from {self.package}.{self.base.__name__}"
            )
        if inspect.isabstract(found):
            raise UserError(
                f"{self.variable}: the {self.noun} of {where} has no method {self.method}; add it"
            )
        return found


@cache
def _code_of(cls: Any, built_in: str) -> str:
    if cls.__module__.startswith(built_in):
        return code_digest(cls.__module__)
    path = _file_of(cls)
    if path is None:
        return text_digest(b"")
    source = path.read_bytes()
    others = companions(path, source, cls.__module__) | _bases(cls)
    return text_digest(source, others - {path})


def _bases(cls: type) -> set[Path]:
    """The files of the classes that a class derives from, Python's own and this project's aside."""
    known = (*sys.stdlib_module_names, *(path.name for path in ROOT.iterdir() if path.is_dir()))
    found = (_file_of(base) for base in cls.__mro__ if base.__module__.split(".")[0] not in known)
    return {path for path in found if path is not None}


def _file_of(cls: type) -> Path | None:
    try:
        path = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # made by no file
        return None
    return Path(path) if path else None


def _is_path(name: str) -> bool:
    return name.endswith(".py")
