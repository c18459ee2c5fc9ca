"""The text that needles are hidden in: the data pack's essays, or a folder of the user's."""

import json
import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from data.packs import pack_file
from models.errors import UserError
from models.paths import user_path

PACK_FILE = "PaulGrahamEssays.json"
SUFFIXES = (".txt", ".md")

# A sentence ends after its closing punctuation and the space that follows, or at a blank line.
_END = re.compile(
    r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]?[A-Z0-9])|[。！？]+[”’」』）]*\s*|\n\s*\n"""
)


def load(haystack: str | None) -> tuple[str, str]:
    """The haystack's text and where it is from: the pack's file, or the folder named.

    A folder's `*.txt` and `*.md`, those of its subfolders included, are joined by a blank line in
    the order of their paths. Raises UserError for a folder that is missing, holds no text, or
    holds a file that is not UTF-8, and where the data pack is missing or damaged.
    """
    if haystack is None:
        path = pack_file(PACK_FILE)
        return _essays(path, _stamp(path)), str(path)
    folder = user_path(haystack, "HAYSTACK=")
    if not folder.is_dir():
        raise UserError(f"HAYSTACK={haystack} is not a folder; name one that holds *.txt or *.md")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    text = _joined(tuple((path, _stamp(path)) for path in paths))
    if not text:
        raise UserError(f"HAYSTACK={haystack} holds no text in *.txt or *.md files; add some")
    return text, str(folder)


def sentences(text: str) -> list[str]:
    """The text's sentences, each with the space after it: joined, they are the text again."""
    cuts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if b > a]


@lru_cache(maxsize=4)
def _joined(files: tuple[tuple[Path, tuple[int, int]], ...]) -> str:
    return "\n\n".join(filter(None, (read(path) for path, _ in files)))


def _stamp(path: Path) -> tuple[int, int]:
    """What an edit of the file changes: a text that is kept in memory is served only with it."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def read(path: Path) -> str:
    """A text file without the space around it; raises UserError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=1)
def _essays(path: Path, stamp: tuple[int, int]) -> str:
    try:
        return str(json.loads(path.read_bytes())["text"]).strip()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not the essays as expected ({reason}); delete .venv and run: make setup"
        ) from None
