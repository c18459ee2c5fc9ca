"""NaN and infinity never pass for a figure: ``max(0.0, nan)`` is 0.0, a mean hides its cause."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.errors import UserError


class NotFinite(UserError):
    """What a model computed holds NaN or infinity: no figure may come of it."""


def require_finite(values: Tensor | float, what: str) -> None:
    """Refuse NaN and infinity; one pass over a tensor, nothing allocated.

    Parameters
    ----------
    what : what the values are, in the plural, for the message.

    Raises
    ------
    NotFinite : some value is NaN or infinite.
    """
    if not is_finite(values):
        raise NotFinite(
            f"{what} hold NaN or infinite values; check the model's weights, or try DTYPE=float32"
        )


def is_finite(values: Tensor | float) -> bool:
    """Whether all values are finite; an empty tensor's and integers are."""
    if not isinstance(values, Tensor):
        return math.isfinite(values)
    if not (values.numel() and values.is_floating_point()):
        return True
    # Least and largest carry a NaN along. Part by part, since a view as a whole would be copied.
    parts = values.flatten(0, -4).unbind() if values.dim() > 3 else [values]
    ends = torch.stack([end for part in parts for end in part.aminmax()])
    return bool(ends.isfinite().all())
