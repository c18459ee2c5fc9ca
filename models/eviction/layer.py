"""One layer of the library's cache that evicts: it holds few rows and has seen many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from models.eviction.base import BasePolicy, Rows, accumulated, chosen
from models.kv.rotary import rotated, unrotated

Angles = Callable[[Tensor], tuple[Tensor, Tensor]]
BY_BATCH = ("keys", "values", "valid", "positions", "prompt", "queries", "sums")


class EvictingLayer(DynamicLayer):
    """Keys and values of the rows that stayed, in temporal order, and what is known of each.

    To whoever makes positions it reports the tokens that it has seen, to whoever makes masks the
    rows that it holds, as if they lay just before the next token.

    Attributes
    ----------
    seen : tokens that came, pads included.
    evicted : some of them were let go.
    valid : bool ``[B, N]``, False where a slot holds no token; such slots stand in front.
    positions : ``[B, H_kv, N]``, that the keys are rotated to.
    prompt : ``[B]``, tokens of each row after its prefill.
    queries : ``[B, H, q, D]``, the last ones, for a policy with a window.
    sums : ``[B, H_kv, N]``, for a policy that accumulates.
    """

    is_croppable = False
    keys: Any  # a tensor from the first pass on
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forget the sequence; the next one begins with nothing of it."""
        self.keys = self.values = None  # not every release of transformers lets go of them
        self.is_initialized = False
        self.seen = 0
        self.evicted = False
        self.valid: Tensor | None = None
        self.positions: Tensor | None = None
        self.prompt: Tensor | None = None
        self.queries: Tensor | None = None
        self.sums: Tensor | None = None

    @property
    def kept(self) -> int:
        """Slots that are in use."""
        return 0 if self.keys is None else int(self.keys.shape[-2])

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.kept + query_length, self.seen - self.kept

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.seen += key_states.shape[-2]
        self.keys, self.values = super().update(key_states, value_states, *args, **kwargs)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda held: held.index_select(0, beam_idx.to(held.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda held: held.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda held: held[indices])

    def mask(self, fresh: Tensor) -> Tensor | None:
        """Bool ``[B, 1, q, N + q]``: which of the rows held and of the fresh ones a query sees.

        Parameters
        ----------
        fresh : bool ``[B, q]``, which of the next tokens are no pads.

        Returns
        -------
        None where a single token sees everything.
        """
        held = torch.cat([self.valid, fresh], -1) if self.valid is not None else fresh
        q = fresh.shape[-1]
        if q == 1 and bool(held.all()):
            return None
        causal = held.new_ones(q, held.shape[-1]).tril(held.shape[-1] - q)
        return (held[:, None] & causal)[:, None]

    def settle(
        self,
        policy: BasePolicy,
        place: tuple[int, int],
        fresh: tuple[Tensor, Tensor],
        queries: Tensor | None,
        scale: float,
        angles: Angles,
    ) -> None:
        """After a pass: keep what it brought beside keys and values, and let go of what may go.

        Parameters
        ----------
        place : this layer's number, and how many there are.
        fresh : validity and positions of what the pass brought, ``[B, q]``.
        queries : ``[B, H, n, D]``, rotated; all of the pass's, or the last ones within the window.
        angles : positions ``[B, n]`` → cos and sin, ``[B, n, D]``, as the model rotates.
        """
        decoding = self.prompt is not None
        valid, positions = fresh
        spread = positions[:, None].expand(-1, self.keys.shape[1], -1)
        self.valid = _behind(self.valid, valid)
        self.positions = _behind(self.positions, spread)
        self.prompt = valid.sum(-1) if self.prompt is None else self.prompt
        if policy.accumulates:
            zeros = self.keys.new_zeros(spread.shape, dtype=torch.float32)
            sums = _behind(self.sums, zeros)
            self.sums = accumulated(policy, Rows(self.keys, self.valid, scale, queries, sums))
        elif queries is not None:
            queries = _behind(self.queries, queries)[:, :, -min(policy.window, self.kept) :]
            self.queries = queries
        rows = Rows(self.keys, self.valid, scale, queries, self.sums)
        stays = chosen(policy, rows, self.prompt, *place, decoding=decoding)
        if stays is not None:
            self._keep(*stays)
            if policy.renumbers:
                self._renumber(angles)

    def _keep(self, indices: Tensor, valid: Tensor) -> None:
        wide = indices[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)
        assert self.positions is not None, "set by every pass"
        self.positions = self.positions.gather(2, indices)
        self.sums = None if self.sums is None else self.sums.gather(2, indices)
        self.valid, self.evicted = valid, True

    def _renumber(self, angles: Angles) -> None:
        """Turn the keys to their places among the tokens held, in float32."""
        assert self.positions is not None, "set by every pass"
        assert self.valid is not None, "set by every pass"
        places = (self.valid.cumsum(-1) - 1).clamp(min=0)[:, None].expand_as(self.positions)
        keys = self.keys.float().flatten(0, 1)
        keys = unrotated(keys, *angles(self.positions.flatten(0, 1)))
        keys = rotated(keys, *angles(places.flatten(0, 1)))
        self.keys = keys.view_as(self.keys).to(self.keys.dtype)
        self.positions = places

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change everything that goes by batch rows in the same way."""
        for name in BY_BATCH:
            held = getattr(self, name)
            setattr(self, name, None if held is None else change(held))


def _behind(held: Tensor | None, fresh: Tensor) -> Tensor:
    """Rows behind each other: ``[B, N]``, ``[B, H, N]`` or ``[B, H, N, D]``."""
    return fresh if held is None else torch.cat([held, fresh], min(fresh.dim() - 1, 2))
