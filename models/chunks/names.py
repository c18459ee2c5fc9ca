"""Keys, and the names of their files below a store's root."""

from __future__ import annotations

import re
from typing import Any

SUFFIX = ".safetensors"
_KEY = re.compile(r"[0-9a-f]{64}")


def is_key(text: Any) -> bool:
    """Whether it is 64 hex in lower case."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def name_of(key: str) -> str:
    """``<aa>/<key>.safetensors``.

    Raises
    ------
    ValueError : it is no key.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is no key of 64 hex")
    return f"{key[:2]}/{key}{SUFFIX}"


def key_of(name: str) -> str | None:
    """The key of a chunk's file by its name, with or without folders; None for any other file."""
    key = name.rpartition("/")[2].removesuffix(SUFFIX)
    return key if name.endswith(SUFFIX) and is_key(key) else None
