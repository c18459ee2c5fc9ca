"""CUDA: FlashInfer's kernels for one row, for rows that follow each other, and for scattered ones.

Facts about the library (0.7) that the code relies on: float16 and bfloat16 only; K/V heads are
never repeated; ``causal=True`` aligns the last row with the last key, so it fits rows that end
where the keys end; a custom mask works in the ``fa2`` kernels alone, which then visit every tile of
keys and mask each, and its size is not checked; bit ``row·n + column``, little-endian, rows not
padded. The ``fa3`` kernel of a single request reads sizes as if ``kv_layout`` were always NHD, so
keys are handed over as an NHD view; strides other than the last are free, but for the decode kernel
without tensor cores, which wants contiguous keys.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.attention import kernels
from models.attention.kernels import HOPPER
from models.attention.paged import PagedRows

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16)
# So many rows fill the device without splitting the keys, which fa3 does not do and fa2 does.
FA3_ROWS = 512
# Below so many rows three launches a layer cost more than the masked tiles that they save.
PAGED_ROWS = 256


def obstacle(
    device: torch.device, dtype: torch.dtype, head_dim: int, form: str | None = None
) -> str | None:
    """Why FlashInfer cannot serve this model here, in this form, or None when it can.

    What it has to compile for that can be compiled here, or is there already.
    """
    if device.type != "cuda":
        return f"it needs a CUDA device, the model is on {device.type}"
    if find_spec("flashinfer") is None:
        return "it is not installed: make setup EXTRAS=dev,gpu"
    if dtype not in DTYPES:
        return "it needs DTYPE=bfloat16 or float16"
    if head_dim not in HEAD_DIMS:
        return f"it has no kernel for heads of {head_dim} dimensions"
    capability = torch.cuda.get_device_capability(device)
    if form == "paged-fa3" and capability[0] != HOPPER:
        return "its fa3 kernels are for GPUs of the Hopper generation"
    return kernels.obstacle(dtype, head_dim, capability)


class Heads(Protocol):
    """What a plan depends on, besides the rows."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    dtype: torch.dtype
    device: torch.device


class FlashInferRows:
    """See :class:`models.attention.registry.MaskedRows` for what it computes.

    Parameters
    ----------
    host : the positions on the host, where they are there already.
    form : how scattered rows are attended. ``single``: one request under one packed mask.
        ``paged``: blocks of rows that share the prompt's pages. ``paged-fa3``: the same, blocks'
        common keys by Hopper's kernels. None: ``single`` or ``paged``, by their number.

    Attributes
    ----------
    form : what these rows take: one of the above; ``decode`` for one row; ``causal`` for rows that
        follow each other.
    """

    def __init__(
        self,
        positions: Tensor,
        n_keys: int,
        form: str | None = None,
        host: np.ndarray | None = None,
    ) -> None:
        import flashinfer

        self.library: Any = flashinfer
        host = positions.cpu().numpy() if host is None else host
        self.visible = int(host[-1]) + 1
        if self.visible > n_keys:
            raise ValueError(f"a row at position {self.visible - 1} has only {n_keys} keys")
        self.form = self._choose(int(host[0]), len(host), form)
        self._attend: Callable[[Tensor, Tensor, Tensor, float], Tensor]
        self._paged: PagedRows | None = None
        if self.form == "decode":
            self._attend = self._decode
        elif self.form == "causal":
            self._attend = self._causal
        elif self.form == "single":
            self.packed = self._pack(positions)
            self._attend = self._single
        else:
            backend = "fa3" if self.form == "paged-fa3" else "fa2"
            self._paged = PagedRows(flashinfer, positions, host, backend)
            self._attend = self._paged.attend

    def plan(self, model: Heads) -> None:
        """Plan for all layers of a model now, instead of when the first of them attends."""
        if self._paged is not None:
            self._paged.plan(
                model.n_heads,
                model.n_kv_heads,
                model.head_dim,
                model.dtype,
                model.scale,
                model.device,
            )

    def _choose(self, first: int, count: int, form: str | None) -> str:
        if count == 1:
            return "decode"
        if count == self.visible - first:
            return "causal"
        return form or ("paged" if count >= PAGED_ROWS else "single")

    def _pack(self, positions: Tensor) -> Tensor:
        """The mask ``key <= position`` as uint8 ``[ceil(R·n / 8)]``, built by one comparison."""
        keys = torch.arange(self.visible, device=positions.device)
        mask = (keys[None, :] <= positions[:, None]).flatten()
        packed = self.library.packbits(mask, bitorder="little")
        if packed.numel() != (mask.numel() + 7) // 8:
            raise RuntimeError(f"{packed.numel()} mask bytes for {mask.numel()} bits")
        return packed

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend ``[1, H, R, D]`` queries over ``[1, H_kv, n, D]`` keys; gives ``[1, R, H, D]``."""
        key, value = key[:, :, : self.visible], value[:, :, : self.visible]
        return self._attend(query, key, value, scale)

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = self.library.single_decode_with_kv_cache(
            query[0, :, 0].contiguous(),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            kv_layout="NHD",
            use_tensor_cores=True,
            sm_scale=scale,
        )
        return out[None, None]

    def _causal(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        backend = "auto" if query.shape[2] >= FA3_ROWS else "fa2"
        return self._prefill(query, key, value, scale, backend=backend, causal=True)

    def _single(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        mask = self.packed
        return self._prefill(query, key, value, scale, backend="fa2", packed_custom_mask=mask)

    def _prefill(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, **how: Any
    ) -> Tensor:
        out = self.library.single_prefill_with_kv_cache(
            query[0].transpose(0, 1).contiguous(),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            kv_layout="NHD",
            sm_scale=scale,
            **how,
        )
        return out[None]
