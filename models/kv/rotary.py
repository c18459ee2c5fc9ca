"""Rotation of cached keys, once, at their global positions."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate_keys_(keys: Tensor, cos: Tensor, sin: Tensor, scratch: Tensor | None = None) -> None:
    """Apply rotary position embedding in place, as the model's attention would.

    The operations and their order are those of the library's ``apply_rotary_pos_emb``, so that a
    rotated cached key equals a fresh one to the last bit. One layer at a time, so that the rows in
    work stay in the processor's cache.

    Parameters
    ----------
    keys : ``[L, H_kv, N, D]``, unrotated; overwritten.
    cos, sin : ``[N, D]`` from the model's own rotary module, its attention scaling included.
    scratch : ``[H_kv, N, D]`` work space, allocated when absent.
    """
    half = keys.shape[-1] // 2
    if scratch is None:
        scratch = torch.empty(keys.shape[1:], dtype=keys.dtype, device=keys.device)
    for layer in keys:
        torch.neg(layer[..., half:], out=scratch[..., :half])
        scratch[..., half:].copy_(layer[..., :half])
        scratch.mul_(sin)
        layer.mul_(cos).add_(scratch)


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States turned to positions, as :func:`rotate_keys_` turns keys: ``[..., n or 1, D]``."""
    return states * cos + _half_turned(states) * sin


def unrotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of :func:`rotated`, the model's attention scaling taken out too."""
    return (states * cos - _half_turned(states) * sin) / (cos.square() + sin.square())


def _half_turned(states: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return torch.cat([-states[..., half:], states[..., :half]], -1)
