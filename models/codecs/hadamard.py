"""Channels mixed by an orthonormal Hadamard matrix, so that none of them stands out."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def mixed(rows: Tensor) -> Tensor:
    """``rows @ M``, float32 ``[..., D]``; M is its own inverse.

    Where D is no power of two, blocks of the largest one that divides it are mixed by themselves.
    """
    size = rows.shape[-1] & -rows.shape[-1]
    return (rows.unflatten(-1, (-1, size)) @ _matrix(size, rows.device)).flatten(-2)


@cache
def _matrix(size: int, device: torch.device) -> Tensor:
    """Sylvester's, ``[size, size]``, symmetric, its rows of length 1."""
    matrix = torch.ones(1, 1, device=device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5
