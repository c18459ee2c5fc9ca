"""Scattered rows on a CPU, in blocks that read keys only up to their last position."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError

# What sdpa itself calls on a CPU; called by name for the log-sum-exp, which sdpa keeps to itself.
KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


def obstacle() -> str | None:
    """Why blocks cannot be attended by this PyTorch, or None when they can."""
    if hasattr(torch.ops.aten, KERNEL):
        return None
    return f"PyTorch {torch.__version__} lacks the kernel that it calls: use BACKEND=sdpa"


@cache
def _kernel() -> Any:
    reason = obstacle()
    if reason:
        raise UserError(f"BACKEND=blocked cannot be used: {reason}")
    return getattr(torch.ops.aten, KERNEL)


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
        flash = _kernel()
        _, n_heads, n_rows, dim = query.shape
        group = n_heads // key.shape[1]
        out = query.new_empty(1, n_rows, n_heads, dim)
        if not self.masks:
            self.masks = [self._mask(*block, group, query.dtype) for block in self.blocks]
        for (start, end, first, last), mask in zip(self.blocks, self.masks, strict=True):
            rows = query[:, :, start:end].reshape(1, -1, group * (end - start), dim)
            if end - start == 1:
                seen = slice(0, last + 1)
                block, _ = flash(rows, key[:, :, seen], value[:, :, seen], scale=scale)
            else:
                seen = slice(first, last + 1)
                block, lse = flash(
                    rows, key[:, :, seen], value[:, :, seen], attn_mask=mask, scale=scale
                )
                if first:
                    seen = slice(0, first)
                    below, lse_below = flash(rows, key[:, :, seen], value[:, :, seen], scale=scale)
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
