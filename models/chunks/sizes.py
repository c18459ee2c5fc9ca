"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import math
import re

from models.errors import UserError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parsed(text: str, variable: str) -> int:
    """Bytes from ``500MB``, ``1.5 GB``, ``10g`` or a plain number; units are powers of 1000.

    Raises
    ------
    UserError : it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    size = float(found[1]) * UNITS[found[2]] if found else math.inf
    if math.isinf(size):  # some hundred digits are no size either
        raise UserError(f"{variable}={text}: give bytes, as 500MB or 20GB")
    return round(size)


def shown(size: float) -> str:
    """A size in the unit in which it has one to three digits in front of its point."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} bytes"
