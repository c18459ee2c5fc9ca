"""Rows of any kind on a CPU by the project's own C++ kernel: whole prompts, scattered rows, one."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.attention.library import Unavailable, load
from models.attention.masked import MaskedRows
from models.errors import UserError

DTYPES = (torch.float32, torch.bfloat16)
HEAD_STEP = 8  # the kernel goes through a head's dimensions by so many
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Call(ctypes.Structure):
    """``Call`` of native.cpp."""

    _fields_ = (
        *((name, _POINTER) for name in ("query", "key", "value", "out")),
        *((f"{x}_{by}", _NUMBER) for x in ("query", "key", "value") for by in ("head", "row")),
        *((name, _NUMBER) for name in ("heads", "kv_heads", "dim", "rows")),
        ("positions", _POINTER),
        ("scale", ctypes.c_float),
        ("half", ctypes.c_bool),
    )


def obstacle(dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel cannot serve such a model here, or None when it can.

    Asked for the first time, it may compile for some seconds.
    """
    if dtype not in DTYPES:
        return "it needs DTYPE=float32 or bfloat16"
    if head_dim % HEAD_STEP:
        return f"it has no kernel for heads of {head_dim} dimensions"
    return _found()[1]


@cache
def _found() -> tuple[Any, str | None]:
    """The kernel, or why there is none; decided once a process, so that no run mixes kernels."""
    try:
        kernel = load().kvfuse_attend
    except Unavailable as reason:
        return None, str(reason)
    kernel.argtypes, kernel.restype = (ctypes.POINTER(_Call), ctypes.c_int), None
    return kernel, None if _agrees(kernel) else "what it computed here was wrong: use another g++"


def _agrees(kernel: Any) -> bool:
    """Whether rows come out as masked SDPA has them: a compiler may be at fault.

    Each way through the kernel is taken, over one part of keys and over three, which are merged.
    """
    generator = torch.Generator().manual_seed(0)
    n_keys, dim = 1100, 80
    cases = (
        torch.arange(1, 120, 3),
        torch.tensor([1070]),  # as in decoding
        torch.arange(5, n_keys, 121),  # few: their parts are tasks of their own
        torch.arange(134, n_keys, 6),  # many; the last row has a tile to itself
    )
    queries, keys, values = (
        torch.randn(1, heads, n, dim, generator=generator)
        for heads, n in ((6, len(cases[-1])), (2, n_keys), (2, n_keys))
    )
    for dtype, tolerance in zip(DTYPES, (1e-5, 2e-2), strict=True):
        for positions in cases:
            query = queries[:, :, : len(positions)].to(dtype)
            key, value = keys.to(dtype), values.to(dtype)
            # Memory that was free may hold an earlier, right answer.
            found = query.new_full((1, len(positions), 6, dim), torch.nan)
            _attend(kernel, query, key, value, 0.25, positions, found)
            reference = MaskedRows(positions, n_keys)  # in float32, from numbers already rounded
            right = reference.attend(query.float(), key.float(), value.float(), 0.25)
            if not torch.allclose(found.float(), right, atol=tolerance):
                return False
    return True


def _attend(
    kernel: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    positions: Tensor,
    out: Tensor,
) -> None:
    _, heads, rows, dim = query.shape
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    same = query.dtype == key.dtype == value.dtype and query.dtype in DTYPES
    shapes = key.shape == value.shape and key.shape[::3] == query.shape[::3] == (1, dim)
    if not same or not shapes or heads % key.shape[1] or dim % HEAD_STEP or query.is_cuda:
        raise ValueError(f"no kernel for {query.shape} {query.dtype} on {key.shape} {key.dtype}")
    if len(positions) != rows:
        raise ValueError(f"{rows} rows, but {len(positions)} positions")
    size = query.element_size()
    call = _Call(
        *(x.data_ptr() for x in (query, key, value, out)),
        *(x.stride(axis) * size for x in (query, key, value) for axis in (1, 2)),
        *(heads, key.shape[1], dim, rows),
        positions.data_ptr(),
        scale,
        query.dtype == torch.bfloat16,
    )
    kernel(ctypes.byref(call), torch.get_num_threads())


class NativeRows:
    """See :class:`~models.attention.masked.MaskedRows` for the parameters.

    Raises
    ------
    UserError : there is no kernel here.
    ValueError : positions that are not sorted, or not below ``n_keys``.
    """

    def __init__(self, positions: Tensor, n_keys: int) -> None:
        self.kernel, reason = _found()
        if reason:
            raise UserError(f"BACKEND=native cannot be used: {reason}")
        # The kernel reads where they point.
        self.positions = positions.to(torch.int64).contiguous()
        first, last = int(positions[0]), int(positions[-1])
        if first < 0 or last >= n_keys or not bool((positions[1:] > positions[:-1]).all()):
            raise ValueError(f"positions from {first} to {last} of {n_keys} keys, or not sorted")
        self.visible = last + 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend ``[1, H, R, D]`` queries over ``[1, H_kv, n, D]`` keys; gives ``[1, R, H, D]``."""
        if key.shape[2] < self.visible:
            raise ValueError(f"{key.shape[2]} keys, but {self.visible} are seen")
        _, heads, rows, dim = query.shape
        out = query.new_empty(1, rows, heads, dim)
        _attend(self.kernel, query, key, value, scale, self.positions, out)
        return out
