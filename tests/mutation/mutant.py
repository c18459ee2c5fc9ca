"""One change of the source that some test has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Stale(Exception):
    """The source that a mutant changes is no longer there, or there more than once."""


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes
    ----------
    what : the mistake in one line.
    file : where, from the repository's root.
    text : the source that is changed, which occurs there exactly once.
    replacement : what stands there instead.
    tests : test files (or ``file::test``), any of which has to fail.
    """

    what: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The file's content with the mistake in it.

        Raises
        ------
        Stale : the text is not there once, or the mistake changes nothing, or a test is gone.
        """
        source = (root / self.file).read_text(encoding="utf-8")
        count = source.count(self.text)
        if count != 1:
            raise Stale(f"{self.file}: {self.text!r} occurs {count} times, not once ({self.what})")
        if self.text == self.replacement:
            raise Stale(f"{self.file}: {self.what}: changes nothing")
        for test in self.tests:
            if not (root / test.partition("::")[0]).is_file():
                raise Stale(f"{test} is no test file ({self.what})")
        return source.replace(self.text, self.replacement)


def in_file(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    """Mutants of one file that the same tests have to notice: what, text and replacement each."""
    return [Mutant(what, file, text, new, tests) for what, text, new in changes]
