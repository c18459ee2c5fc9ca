"""Rotation of cached keys, once, at their global positions."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.attention.library import Unavailable, load

SOURCE = Path(__file__).with_name("rotate.cpp")
DTYPES = (torch.float32, torch.bfloat16)
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Rotation(ctypes.Structure):
    """``Rotation`` of rotate.cpp."""

    _fields_ = (
        ("keys", _POINTER),
        ("head", _NUMBER),
        ("cos", _POINTER),
        ("sin", _POINTER),
        *((name, _NUMBER) for name in ("heads", "rows", "dim")),
        ("half", ctypes.c_bool),
    )


def rotate_keys_(keys: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Apply rotary position embedding in place, as the model's attention would.

    The operations and their roundings are those of the library's ``apply_rotary_pos_emb``, so that
    a rotated cached key equals a fresh one to the last bit. On a CPU by a kernel of our own, in
    one pass; where there is none, and elsewhere, by PyTorch's operations.

    Parameters
    ----------
    keys : ``[L, H_kv, N, D]``, unrotated; overwritten.
    cos, sin : ``[N, D]`` from the model's own rotary module, its attention scaling included.
    """
    if not _fits(keys, cos, sin) or lacking():
        by_operations_(keys, cos, sin)
        return
    kernel, _ = _found()
    cos, sin = cos.contiguous(), sin.contiguous()
    for layer in keys:
        _rotate_(kernel, layer, cos, sin)


def lacking() -> str | None:
    """Why keys are rotated without a kernel here, None where there is one.

    Asked for the first time, it may compile for some seconds.
    """
    return _found()[1]


def by_operations_(keys: Tensor, cos: Tensor, sin: Tensor) -> None:
    """What :func:`rotate_keys_` does, by PyTorch's operations.

    One layer at a time, so that the rows in work stay in the processor's cache.
    """
    half = keys.shape[-1] // 2
    scratch = torch.empty(keys.shape[1:], dtype=keys.dtype, device=keys.device)
    for layer in keys:
        torch.neg(layer[..., half:], out=scratch[..., :half])
        scratch[..., half:].copy_(layer[..., :half])
        scratch.mul_(sin)
        layer.mul_(cos).add_(scratch)


def _fits(keys: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the kernel reads tensors of this kind."""
    n, dim = keys.shape[2:]
    same = cos.dtype == sin.dtype == keys.dtype and cos.shape == sin.shape == (n, dim)
    known = keys.device.type == "cpu" and keys.dtype in DTYPES
    return known and same and dim % 2 == 0 and keys.stride()[2:] == (dim, 1)


def _rotate_(kernel: Any, keys: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Keys of one layer, ``[H_kv, N, D]``."""
    call = _Rotation(
        keys.data_ptr(),
        keys.stride(0) * keys.element_size(),
        cos.data_ptr(),
        sin.data_ptr(),
        *keys.shape,
        keys.dtype == torch.bfloat16,
    )
    kernel(ctypes.byref(call), torch.get_num_threads())


@cache
def _found() -> tuple[Any, str | None]:
    """The kernel, or why there is none; decided once a process."""
    try:
        kernel = load(SOURCE).kvfuse_rotate
    except Unavailable as reason:
        return None, str(reason)
    kernel.argtypes, kernel.restype = (ctypes.POINTER(_Rotation), ctypes.c_int), None
    return kernel, None if _agrees(kernel) else "what it computed here was wrong: use another g++"


def _agrees(kernel: Any) -> bool:
    """Whether it gives what PyTorch's operations give, to the bit: a compiler may be at fault.

    Rows are more than a thread takes at once, and not all of a width that fills the registers.
    """
    generator = torch.Generator().manual_seed(0)
    for dtype, (rows, dim) in product(DTYPES, ((5, 24), (300, 64))):
        found = torch.randn(3, rows, dim, generator=generator).to(dtype)
        cos, sin = torch.randn(2, rows, dim, generator=generator).to(dtype)
        right = found.clone()
        by_operations_(right[None], cos, sin)
        _rotate_(kernel, found, cos, sin)
        if not torch.equal(found, right):
            return False
    return True


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States turned to positions, as :func:`rotate_keys_` turns keys: ``[..., n or 1, D]``."""
    return states * cos + _half_turned(states) * sin


def unrotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of :func:`rotated`, the model's attention scaling taken out too."""
    return (states * cos - _half_turned(states) * sin) / (cos.square() + sin.square())


def _half_turned(states: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return torch.cat([-states[..., half:], states[..., :half]], -1)
