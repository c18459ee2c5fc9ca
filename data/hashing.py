"""Short hashes of files and settings: the same hash, the same content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from models.errors import UserError

_BLOCK = 1 << 20


def combine(*parts: Any) -> str:
    """16 hex over values that JSON can hold, in their order."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """64 hex over a file's bytes; UserError where it cannot be read."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    return found.hexdigest()
