"""Small files that tell when they were changed: JSON objects that carry a digest of themselves."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST = "digest"


def parse(text: str | bytes) -> Any:
    """A JSON document; ValueError for every text that is none, however it is damaged."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def digest(content: Any) -> str:
    """64 hex over a JSON value, whatever the order of its keys.

    Raises
    ------
    ValueError : it holds NaN or an infinity, which JSON does not know.
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The object with its digest added."""
    return {**content, DIGEST: digest(content)[:16]}


def unseal(sealed: Any) -> dict[str, Any]:
    """The object without its digest.

    Raises
    ------
    ValueError : it is no object, or not what its digest was taken of.
    """
    if not isinstance(sealed, dict):
        raise ValueError("no JSON object")
    content = {key: value for key, value in sealed.items() if key != DIGEST}
    if sealed.get(DIGEST) != digest(content)[:16]:
        raise ValueError("changed since it was written")
    return content
