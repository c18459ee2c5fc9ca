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


def text_digest(source: bytes, others: Iterable[Path] = ()) -> str:
    """12 hex over a source that is no module of this project, and all that it imports of it.

    ``others`` are files outside this project that it depends on; they count likewise.
    """
    texts = sorted((path.name, _content(path)) for path in others)  # wherever they lie
    known = {
        name
        for text in (source, *(text for _, text in texts))
        for name in _imported(text)
        if _path(name)
    }
    for name, text in texts:
        source += f"\n{name} {len(text)}\n".encode() + text
    return hashlib.sha256(source + code_digest(*known).encode()).hexdigest()[:12]


def companions(path: Path, source: bytes, module: str = "") -> set[Path]:
    """The files outside this project that a source imports, however deep.

    Of a ``module``, those of its top-level package; else those that lie beside the file. What other
    packages hold, and what is imported by a name made at run time, is not seen.
    """
    depth = module.count(".") + (path.name == "__init__.py") if module else 0
    root, top = path.parents[depth], module.split(".")[0]
    found: set[Path] = set()
    pending = [(path, source)]
    while pending:
        path, source = pending.pop()
        for level, name in _named(source):
            if level == 0 and (_path(name) or (top and name.split(".")[0] != top)):
                continue
            near = _lying(path.parents[level - 1] if level else root, name)
            if near and near not in found:
                found.add(near)
                pending.append((near, _content(near)))
    return found


@cache
def _content(path: Path) -> bytes:
    """What a file outside this project held when first asked: Python runs that, edited or not."""
    return path.read_bytes()


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
    return _lying(ROOT, module)


def _lying(root: Path, module: str) -> Path | None:
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imported(source: bytes) -> tuple[str, ...]:
    """Modules that a source imports by their full names, and the packages that they are in."""
    return tuple(name for level, name in _named(source) if level == 0)


@cache
def _named(source: bytes) -> tuple[tuple[int, str], ...]:
    """Modules that a source imports, and the packages that they are in; the dots before each.

    Most modules import the same ones in the end, so that a file is looked at many times.
    """
    found = []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # nothing that runs: perhaps another Python's
        return ()
    for node in ast.walk(tree):
        names: list[str] = []
        level = 0
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            level, stem = node.level, [node.module] if node.module else []
            names = [*stem, *(".".join([*stem, alias.name]) for alias in node.names)]
        for name in names:
            parts = name.split(".")
            found += [(level, ".".join(parts[:end])) for end in range(1, len(parts) + 1)]
    return tuple(dict.fromkeys(found))
