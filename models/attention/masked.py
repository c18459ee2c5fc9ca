"""Rows attended by PyTorch's own kernel: with a mask, the reference anywhere, and whole prompts."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa


class Rows(Protocol):
    """The query rows of one pass, prepared for attention."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend ``[1, H, R, D]`` queries over ``[1, H_kv, n, D]`` keys; gives ``[1, R, H, D]``."""
        ...


class MaskedRows:
    """Reference on any device: one call with a boolean mask ``[R, n]``.

    Parameters
    ----------
    positions : ``[R]`` sorted global positions of the query rows.
    n_keys : keys ``0 .. n_keys - 1`` exist; a row at position ``p`` sees those ``<= p``.
    """

    def __init__(self, positions: Tensor, n_keys: int) -> None:
        keys = torch.arange(n_keys, device=positions.device)
        self.mask = keys[None, :] <= positions[:, None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if query.is_cuda:
            # With grouped heads a masked call would fall back to the slow math kernel.
            group = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        grouped = query.shape[1] != key.shape[1]
        out = sdpa(query, key, value, attn_mask=self.mask, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2)


class CausalRows:
    """A whole prompt from its first token on, on any device: PyTorch's causal kernel."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = sdpa(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)
