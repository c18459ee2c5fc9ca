"""Figures that are no numbers: NaN would count as perfect where a largest or smallest is taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from models.errors import UserError

REMEDY = "a model that overflows gives such figures: try DTYPE=float32, with FRESH=1"


class NotFinite(UserError):
    """A figure is NaN or infinite, so nothing may be made of it; a caller may name the item."""


def require_finite(value: Any, what: str) -> None:
    """Refuse NaN and infinities, wherever in a record or tensor they stand.

    ``max(0.0, nan)`` is 0.0 in Python, and where ``sorted`` or ``min`` put a NaN depends on its
    place, so it has to be found before any of them sees it.

    Parameters
    ----------
    value : a number, a tensor or array of any shape, or lists and dicts of them; others pass.
    what : what it is, for the message.

    Raises
    ------
    NotFinite : it holds NaN or an infinity.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            require_finite(inner, f"{what}: {key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            require_finite(inner, f"{what}[{place}]")
    elif isinstance(value, Tensor):
        if not bool(value.isfinite().all()):
            count = int((~value.isfinite()).sum())
            raise NotFinite(f"{what}: {count} of {value.numel()} are NaN or infinite; {REMEDY}")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            count = int((~np.isfinite(value)).sum())
            raise NotFinite(f"{what}: {count} of {value.size} are NaN or infinite; {REMEDY}")
    elif isinstance(value, float | np.floating) and not math.isfinite(value):
        raise NotFinite(f"{what} is {value}; {REMEDY}")
