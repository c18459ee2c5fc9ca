"""Benchmark files: JSON objects a line, plain or compressed, and what is wrong with one."""

import bz2
import gzip
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from models.errors import UserError
from models.sealed import parse

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_CUT_SHORT = (EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, uncompressed as its name says; UserError where it cannot be read."""
    opener: Any = _OPENERS.get(path.suffix, open)
    try:
        return opener(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def content(path: Path, remedy: str) -> bytes:
    """All of the file's bytes, uncompressed; UserError with `remedy` where it is damaged."""
    try:
        with opened(path) as file:
            return file.read()
    except _CUT_SHORT as error:
        raise UserError(f"{path} is damaged or cut short ({error}); {remedy}") from None


def objects(
    lines: Iterable[bytes], where: str, remedy: str, kind: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line's object, with the place to name when it is bad; blank lines are passed over.

    `remedy` ends the message about a damaged file ("fetch it again"), `kind` says what a line must
    be. Raises UserError naming file and line.
    """
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                here = f"{where}, line {number}"
                yield _object(line, here, remedy, kind), here
    except _CUT_SHORT as error:
        raise UserError(
            f"{where} is damaged or cut short after line {number} ({error}); {remedy}"
        ) from None


def _object(line: bytes, where: str, remedy: str, kind: str) -> dict[str, Any]:
    try:
        found = parse(line.decode("utf-8-sig"))
        if b"\\ud" in line.lower():  # it may be half a pair, which is no character
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text; save the file as UTF-8") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(f"{where}: {half!r} is half of a character; mend the text") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON, or cut short ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: not a JSON object; every line must be one {kind}")
    return found
