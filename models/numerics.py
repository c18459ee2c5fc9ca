"""How this machine multiplies float32 matrices, and whether its faster way is as exact.

PyTorch hands float32 products to oneDNN only where it is told that lower precision will do. On a
processor without matrix units for bfloat16 oneDNN then still computes in float32, and faster; on
one that has them (AMX) it really rounds. So the choice is made by measuring the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# A product of this shape keeps every kernel's blocking busy and costs about a millisecond.
SHAPE = (256, 576, 512)
# Rounding to bfloat16 costs a factor of thousands; another order of float32 sums, one below ten.
TOLERATED = 16.0
# Below so many rows the default is as fast; for a single one, as in decoding, twice as fast.
FEWEST_ROWS = 64


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's product is as close to the true one as float32 sums in any order are."""
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = SHAPE
    a = torch.randn(rows, inner, generator=generator)
    b = torch.randn(columns, inner, generator=generator)
    true = a.double() @ b.double().T

    def error() -> float:
        return float((torch.nn.functional.linear(a, b) - true).norm() / true.norm())

    plain = error()
    with _lower_precision_allowed():
        return error() <= TOLERATED * plain


@contextmanager
def fast_products(hidden: Tensor) -> Iterator[None]:
    """Multiply ``hidden`` ``[..., R, hidden]`` by oneDNN, where that is faster and as exact."""
    plain = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    if plain and hidden.shape[-2] >= FEWEST_ROWS and onednn_is_exact():
        with _lower_precision_allowed():
            yield
    else:
        yield


@contextmanager
def _lower_precision_allowed() -> Iterator[None]:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
