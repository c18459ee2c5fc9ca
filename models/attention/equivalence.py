"""FlashInfer's rows against masked SDPA in float32, in every case that a prompt can bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from models.attention.masked import MaskedRows
from models.attention.registry import rows_for
from models.load.settings import dtype_name

BACKENDS = ("flashinfer", "flashinfer:single", "flashinfer:paged")
LENGTHS = (300, 2048, 8192)
GROUPS = (1, 3, 4, 7)
KV_HEADS = 2
SPARE_ROWS = 13
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-4}


@dataclass(frozen=True)
class Comparison:
    """One case: ``error`` is the largest over rows and heads, relative to the output's norm."""

    case: str
    backend: str
    dtype: str
    head_dim: int
    group: int
    n: int
    error: float
    passed: bool


def cases(n: int) -> dict[str, Tensor]:
    """Sorted positions of the rows, by the name of the case."""
    generator = torch.Generator().manual_seed(n)
    scattered = torch.randperm(n, generator=generator)[: max(2, n * 15 // 100)]
    return {
        "scattered": scattered.sort().values,
        "first": torch.tensor([0]),
        "one row": torch.tensor([n // 2]),
        "last": torch.tensor([n - 1]),
        "tail": torch.arange(n - 64, n),
        "all": torch.arange(n),
        "two blocks": torch.cat([torch.arange(n // 5, n // 3), torch.arange(n - 64, n)]),
        "edges": torch.tensor([0, 1, 3, 63, 64, 65, 127, 128, n - 1]),
    }


def run(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    head_dims: Sequence[int],
    lengths: Sequence[int] = LENGTHS,
    groups: Sequence[int] = GROUPS,
    backends: Sequence[str] = BACKENDS,
    kv_heads: int = KV_HEADS,
) -> list[Comparison]:
    """Compare every back end in every case; ``groups`` are query heads for each key head."""
    results = []
    for dtype, head_dim, group, n in product(dtypes, head_dims, groups, lengths):
        for case, positions in cases(n).items():
            rows = positions.to(device)
            query, key, value = _states(rows, n, (kv_heads, group), head_dim, dtype)
            scale = head_dim**-0.5
            exact = MaskedRows(rows, n).attend(query.float(), key.float(), value.float(), scale)
            for backend in backends:
                got = rows_for(backend, rows, n).attend(query, key, value, scale).float()
                error = float(((got - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
                passed = error <= TOLERANCE[dtype]  # also refuses a NaN
                name = dtype_name(dtype)
                results.append(Comparison(case, backend, name, head_dim, group, n, error, passed))
    return results


def _states(
    rows: Tensor, n: int, heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and keys and values in a buffer with rows to spare.

    The key at a row's own position and the one after it draw much of the row's attention, so that
    a mask that is off by one key shows.
    """
    generator = torch.Generator(rows.device).manual_seed(n)
    kv_heads, group = heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=rows.device)

    query = draw(1, len(rows), group * kv_heads, head_dim).transpose(1, 2)
    kv = draw(2, kv_heads, n + SPARE_ROWS, head_dim)
    leading = query[0, ::group]
    pull = leading / leading.norm(dim=-1, keepdim=True) * (math.log(n) + 1)
    for step in (0, 1):
        kv[0].index_add_(1, rows + step, pull)
    query, kv = query.to(dtype), kv.to(dtype)
    return query, kv[0, None, :, :n], kv[1, None, :, :n]
