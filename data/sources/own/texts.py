"""A folder of texts that questions are about, and which of them a question names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data.sources.haystack import read
from data.sources.own.cells import missing


class Texts:
    """The texts of a folder, read when they are first asked for.

    Parameters
    ----------
    folder : the place. paths : its texts, in the order in which they stand in a prompt.
    """

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        self.folder = folder
        self.paths = paths
        self._read: dict[Path, str] = {}

    def all(self) -> list[str]:
        """Every text that is not blank."""
        return self._of(self.paths)

    def named(self, value: Any) -> list[str]:
        """The texts of the files that a cell names, in its order; all of them for an empty cell.

        A name is a path below the folder, a file's name, or that without its ending. A cell is
        a list of names, or text with commas or semicolons between them. Raises ValueError for a
        name that no file has, or several.
        """
        if missing(value) or value == []:
            return self.all()
        names = value if isinstance(value, (list, tuple)) else [value]
        return self._of([path for name in names for path in self._files(name)])

    def _files(self, name: Any) -> list[Path]:
        if not isinstance(name, str):
            raise ValueError(f"holds a {type(name).__name__}, no file's name")
        if not (found := self._called(name)):
            parts = [part for part in re.split(r"[,;]", name) if part.strip()]
            if len(parts) > 1:
                return [path for part in parts for path in self._files(part)]
            raise ValueError(
                f"names {name.strip()[:60]!r}, no text of {self.folder}; if rows hold their "
                "documents, name their file itself as DATASET="
            )
        if len(found) > 1:
            raise ValueError(f"names {name.strip()!r}, and several texts are called so")
        return found

    def _called(self, name: str) -> list[Path]:
        name = name.strip()
        for forms in (
            lambda path: path.relative_to(self.folder).as_posix(),
            lambda path: path.name,
            lambda path: path.stem,
        ):
            if found := [path for path in self.paths if forms(path) == name]:
                return found
        return []

    def _of(self, paths: list[Path]) -> list[str]:
        for path in paths:
            if path not in self._read:
                self._read[path] = read(path)
        return [self._read[path] for path in paths if self._read[path]]
