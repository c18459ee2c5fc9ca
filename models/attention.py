"""Attention of scattered query rows over a whole prompt: one signature, a back end per device.

A back end is a class that is built once per pass from the rows' positions and then called by every
decoder layer through the library's attention interface (``rows=`` travels as a keyword argument of
the decoder layer). Every back end agrees with :class:`MaskedRows` within the dtype's rounding. A
name may go on with the form in which scattered rows are attended: ``flashinfer:paged``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from models.errors import UserError
from models.flashinfer_rows import FORMS, FlashInferRows, obstacle

INTERFACE = "kvfuse"
# What sdpa itself calls on a CPU; called by name for the log-sum-exp, which sdpa keeps to itself.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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


class BlockedRows:
    """CPU: sorted rows in blocks; a block reads keys only up to its last position.

    The keys below a block's first position, which all its rows see, are attended without a mask,
    the few from there on with one, and the two are merged by their log-sum-exp. The heads that
    share a K/V head become rows of one call, so K and V are never expanded and the kernel works on
    larger tiles. See :class:`MaskedRows` for the parameters.
    """

    # Measured: larger blocks pay only where few keys lie between a block's rows.
    block, contiguous_block = 64, 256

    def __init__(self, positions: Tensor, n_keys: int) -> None:
        self.positions = positions
        rows = len(positions)
        contiguous = int(positions[-1]) - int(positions[0]) + 1 == rows
        size = self.contiguous_block if contiguous else self.block
        starts = range(0, rows, size)
        ends = [*starts[1:], rows]
        first, last = positions[list(starts)].tolist(), positions[[e - 1 for e in ends]].tolist()
        self.blocks = list(zip(starts, ends, first, last, strict=True))
        self.masks: list[Tensor] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        _, n_heads, n_rows, dim = query.shape
        group = n_heads // key.shape[1]
        out = query.new_empty(1, n_rows, n_heads, dim)
        if not self.masks:
            self.masks = [self._mask(*block, group, query.dtype) for block in self.blocks]
        for (start, end, first, last), mask in zip(self.blocks, self.masks, strict=True):
            rows = query[:, :, start:end].reshape(1, -1, group * (end - start), dim)
            if end - start == 1:
                seen = slice(0, last + 1)
                block, _ = _flash(rows, key[:, :, seen], value[:, :, seen], scale=scale)
            else:
                seen = slice(first, last + 1)
                block, lse = _flash(
                    rows, key[:, :, seen], value[:, :, seen], attn_mask=mask, scale=scale
                )
                if first:
                    seen = slice(0, first)
                    below, lse_below = _flash(rows, key[:, :, seen], value[:, :, seen], scale=scale)
                    share = torch.sigmoid(lse_below - lse).to(block.dtype)
                    block = block.lerp(below, share[..., None])
            out[:, start:end] = block.view(1, n_heads, -1, dim).transpose(1, 2)
        return out

    def _mask(
        self, start: int, end: int, first: int, last: int, group: int, dtype: torch.dtype
    ) -> Tensor:
        """0 where a row sees a key of its block's last part, -inf elsewhere; once per head."""
        keys = torch.arange(first, last + 1, device=self.positions.device)
        hidden = keys[None, :] > self.positions[start:end, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=keys.device)
        return mask.masked_fill_(hidden, -torch.inf).repeat(group, 1)


class PackedSegments:
    """Segments side by side in one row of tokens, each causal and blind to the others (capture).

    No padding exists, so none has to be masked; neighbours of equal length share one kernel call.

    Parameters
    ----------
    lengths : tokens of each segment, in order.
    """

    def __init__(self, lengths: list[int]) -> None:
        self.groups: list[tuple[int, int, int]] = []
        start = 0
        for length, equal in groupby(lengths):
            count = len(list(equal))
            self.groups.append((start, count, length))
            start += count * length

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        for start, count, length in self.groups:
            end = start + count * length
            q, k, v = (
                x[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1)
                for x in (query, key, value)
            )
            attended = sdpa(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            out[0, start:end] = attended.transpose(1, 2).flatten(0, 1)
        return out


BACKENDS: dict[str, Callable[[Tensor, int], Rows]] = {
    "blocked": BlockedRows,
    "sdpa": MaskedRows,
    "flashinfer": FlashInferRows,
    **{f"flashinfer:{form}": partial(FlashInferRows, form=form) for form in FORMS},
}


def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, requested: str = "auto"
) -> str:
    """Name the back end: ``blocked`` on a CPU, ``flashinfer`` on CUDA, masked ``sdpa`` elsewhere.

    Raises
    ------
    UserError : unknown name, or a back end that cannot run here.
    """
    if requested == "auto":
        if device.type == "cpu":
            return "blocked"
        return "sdpa" if obstacle(device, dtype, head_dim) else "flashinfer"
    if requested not in BACKENDS:
        raise UserError(f"unknown back end BACKEND={requested}: use auto, {', '.join(BACKENDS)}")
    if requested == "blocked" and device.type != "cpu":
        raise UserError(f"BACKEND=blocked runs on a CPU, the model is on {device.type}")
    library, _, form = requested.partition(":")
    reason = obstacle(device, dtype, head_dim, form) if library == "flashinfer" else None
    if reason:
        raise UserError(f"BACKEND={requested} cannot be used: {reason}")
    return requested


def rows_for(backend: str, positions: Tensor, n_keys: int) -> Rows:
    """Prepare one pass of sorted ``positions`` over ``n_keys`` keys for the named back end."""
    if len(positions) == n_keys > 1 and not backend.startswith("flashinfer"):
        return CausalRows()
    return BACKENDS[backend](positions, n_keys)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    rows: Rows,
    **_: Any,
) -> tuple[Tensor, None]:
    return rows.attend(query, key, value, scaling), None


def install(model: Any) -> None:
    """Route ``model``'s attention through ``rows=``, by the library's own registration."""
    AttentionInterface.register(INTERFACE, _attention)
    model.set_attn_implementation(INTERFACE)
