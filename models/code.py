"""Which source files a result depends on, and a hash over them: other code, another result."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code_digest(*modules: str, files: Iterable[Path] = ()) -> str:
    """12 hex over the source of ``modules``, of all they import of this project, and of ``files``.

    Raises
    ------
    ModuleNotFoundError : no such module in this project.
    """
    paths = set(files)
    for module in modules:
        if _path(module) is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project")
        paths |= sources(module)
    digest = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def text_digest(source: bytes) -> str:
    """12 hex over a source that is no module of this project, and all that it imports of it."""
    known = [module for module in _imported(source) if _path(module) is not None]
    return hashlib.sha256(source + code_digest(*known).encode()).hexdigest()[:12]


@cache
def sources(module: str) -> frozenset[Path]:
    """The files of ``module`` and of everything of this project that it imports, however deep.

    C++ sources count for the modules of their folder.
    """
    found: set[Path] = set()
    start = _path(module)
    pending = [start] if start else []
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            found.update(file for file in path.parent.iterdir() if file.suffix in (".cpp", ".h"))
            pending += imports(path)
    return frozenset(found)


def imports(path: Path) -> set[Path]:
    """The files of this project that a file imports itself."""
    found = map(_path, _imported(path.read_bytes()))
    return {path for path in found if path is not None}


def _path(module: str) -> Path | None:
    """Where a module of this project lies; None for others."""
    stem = ROOT.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _imported(source: bytes) -> tuple[str, ...]:
    """Modules that a source imports, and the packages that they are in.

    Most modules import the same ones in the end, so that a file is looked at many times.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            found += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return tuple(dict.fromkeys(found))
