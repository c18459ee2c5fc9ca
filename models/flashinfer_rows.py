"""CUDA: FlashInfer's prefill kernels, a bit-packed mask for scattered rows, K/V heads as they are.

Facts about the library that the code relies on: float16 and bfloat16 only; a custom mask works in
the ``fa2`` back end alone and its size is not checked; bit ``row·N + column``, little-endian, rows
not padded; ``causal=True`` aligns the last row with the last key, so it fits rows that end the
prompt.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16)


def obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why FlashInfer cannot serve this model here, or None when it can."""
    if device.type != "cuda":
        return f"it needs a CUDA device, the model is on {device.type}"
    if find_spec("flashinfer") is None:
        return "it is not installed: make setup EXTRAS=dev,gpu"
    if dtype not in DTYPES:
        return "it needs DTYPE=bfloat16 or float16"
    if head_dim not in HEAD_DIMS:
        return f"it has no kernel for heads of {head_dim} dimensions"
    return None


class FlashInferRows:
    """See :class:`models.attention.MaskedRows` for the parameters."""

    name = "flashinfer"

    def __init__(self, positions: Tensor, n_keys: int) -> None:
        import flashinfer

        self.library: Any = flashinfer
        self.tail = int(positions[0]) == n_keys - len(positions)
        if not self.tail:
            self.packed = self._pack(positions, n_keys)

    def _pack(self, positions: Tensor, n_keys: int) -> Tensor:
        """The mask ``key <= position`` as uint8 ``[ceil(R·N / 8)]``, built by one comparison."""
        keys = torch.arange(n_keys, device=positions.device)
        mask = (keys[None, :] <= positions[:, None]).flatten()
        packed = self.library.packbits(mask, bitorder="little")
        if packed.numel() != (mask.numel() + 7) // 8:
            raise RuntimeError(f"{packed.numel()} mask bytes for {mask.numel()} bits")
        return packed

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        mask = {"causal": True} if self.tail else {"packed_custom_mask": self.packed}
        out = self.library.single_prefill_with_kv_cache(
            query[0].transpose(0, 1).contiguous(),
            key[0],
            value[0],
            kv_layout="HND",
            sm_scale=scale,
            backend="auto" if self.tail else "fa2",
            **mask,
        )
        return out[None]
