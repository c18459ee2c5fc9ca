"""Rows of one prompt's cache leave it: after the first token, and while decoding where due."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from models.eviction.base import BasePolicy, Rows, accumulated, chosen
from models.kv.cache import FusedCache, FusedLayer
from models.kv.rotary import rotated, unrotated
from models.modules import Modules
from models.timing import Stopwatch


def watched(policy: BasePolicy) -> int:
    """How many of a pass's last queries a policy looks at."""
    return sys.maxsize if policy.accumulates else policy.window


def most_kept(policy: BasePolicy, prompt: int, n_layers: int) -> int:
    """Rows that stay of a prompt in the layer that keeps most."""
    return max(policy.target(prompt, prompt, i, n_layers, False) for i in range(n_layers))


class Evicting:
    """One sequence's cache under a policy, and what the policy wants to know of it.

    Parameters
    ----------
    prompt : tokens of the prefill.
    tokens : that may follow it.
    cache : memory of its own, in ``buffer``; what the prefill left stays as it is.

    Attributes
    ----------
    queries : ``[H, q, D]`` of the last tokens, layer by layer, for a policy with a window.
    sums : float32 ``[H_kv, N]``, layer by layer, for a policy that accumulates.
    ms : milliseconds that all evictions took so far, scoring and bookkeeping included.
    count : passes after which rows left.
    """

    def __init__(
        self,
        modules: Modules,
        policy: BasePolicy,
        prompt: int,
        tokens: int,
        cache: FusedCache,
        buffer: Tensor,
    ) -> None:
        self.modules = modules
        self.policy = policy
        self.prompt = prompt
        self.tokens = tokens
        self.cache = cache
        self.buffer = buffer
        positions = torch.arange(prompt + tokens, device=cache.kv.device)[None]
        self.rotary = modules.rotary(modules.embed.weight, positions)
        self.queries: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.ms = 0.0
        self.count = 0

    @property
    def steps(self) -> bool:
        """Whether rows may leave while decoding; else nothing is looked at after the first token.

        A policy with another ``target`` than the usual is asked every time.
        """
        return self.policy.buffer > 0 or type(self.policy).target is not BasePolicy.target

    def begin(self, source: FusedCache, queries: Sequence[Tensor]) -> None:
        """Take over the rows of a prefill that stay.

        Parameters
        ----------
        queries : ``[H, q, D]`` of its last tokens, layer by layer; none where it needs none.

        Raises
        ------
        UserError, NotFinite : as :func:`models.eviction.base.keep`.
        """
        watch = Stopwatch(self.cache.kv.device)
        self._settle(source, queries, decoding=False)
        self.ms += watch.total()

    def passed(self, queries: Sequence[Tensor]) -> None:
        """Let rows go after a pass in decoding, ``queries`` being those of its tokens."""
        if not self.steps:
            return
        watch = Stopwatch(self.cache.kv.device)
        self._settle(self.cache, queries, decoding=True)
        self.ms += watch.total()

    def due(self, most: int) -> int:
        """How many tokens may pass before rows leave, at least 1 and at most ``most``."""
        if not self.steps:
            return most
        layers = range(len(self.cache.layers))
        for count in range(1, most):
            lengths = [length + count for length in self.cache.lengths]
            if any(self._target(lengths[layer], layer, True) < lengths[layer] for layer in layers):
                return count
        return most

    @torch.inference_mode()
    def fork(self, cache: FusedCache, buffer: Tensor) -> Evicting:
        """The same at this moment over other memory, to go on with by itself."""
        other = Evicting(self.modules, self.policy, self.prompt, self.tokens, cache, buffer)
        cache.copy(self.cache)
        other.queries, other.sums = list(self.queries), list(self.sums)
        other.ms, other.count = self.ms, self.count
        return other

    def _target(self, resident: int, layer: int, decoding: bool) -> int:
        n_layers = len(self.cache.layers)
        return self.policy.target(resident, self.prompt, layer, n_layers, decoding)

    def _settle(self, source: FusedCache, queries: Sequence[Tensor], decoding: bool) -> None:
        left = False
        for index, (layer, before) in enumerate(zip(self.cache.layers, source.layers, strict=True)):
            fresh = queries[index] if queries else None
            rows = self._rows(index, before, fresh)
            target = self._target(before.length, index, decoding)
            stays = None
            if target < before.length:
                prompt = torch.tensor([self.prompt], device=rows.keys.device)
                n_layers = len(self.cache.layers)
                stays = chosen(self.policy, rows, prompt, index, n_layers, decoding)
            if stays is not None:
                left = True
                slots = stays[0][0]
                layer.keep(slots, before)
                if self.sums:
                    self.sums[index] = self.sums[index].gather(1, slots)
                if self.policy.renumbers:
                    self._renumber(layer)
            elif source is not self.cache:
                layer.copy(before)
        self.count += left

    def _rows(self, index: int, layer: FusedLayer, fresh: Tensor | None) -> Rows:
        """What the policy is told of a layer after a pass, and kept for the next one."""
        keys = layer.owner.kv[None, 0, layer.layer, :, : layer.length]
        valid = torch.ones(1, layer.length, dtype=torch.bool, device=keys.device)
        scale = self.modules.scale
        if self.policy.accumulates:
            sums = torch.zeros(keys.shape[:3], device=keys.device)
            if index < len(self.sums):
                held = self.sums[index]
                sums[0, :, : held.shape[1]] = held
            assert fresh is not None, "a policy that accumulates has every pass watched"
            rows = Rows(keys, valid, scale, fresh[None], sums)
            sums = accumulated(self.policy, rows)
            self.sums[index : index + 1] = [sums[0]]
            return Rows(keys, valid, scale, fresh[None], sums)
        if self.policy.window:
            assert fresh is not None, "a policy with a window has every pass watched"
            if index < len(self.queries):
                fresh = torch.cat([self.queries[index], fresh], 1)
            fresh = fresh[:, -min(self.policy.window, layer.length) :]
            self.queries[index : index + 1] = [fresh]
            return Rows(keys, valid, scale, fresh[None])
        return Rows(keys, valid, scale)

    def _renumber(self, layer: FusedLayer) -> None:
        """Turn a layer's keys to their places in the cache, in float32: row ``i`` is at ``i``."""
        keys = layer.owner.kv[0, layer.layer, :, : layer.length]
        places = torch.arange(layer.length, device=keys.device).expand(len(keys), -1)
        turned = rotated(
            unrotated(keys.float(), *self._angles(layer.positions)), *self._angles(places)
        )
        keys.copy_(turned)
        layer.kept, layer.shift = None, 0

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions ``[H_kv, N]``, as the model rotates, in float32."""
        like = torch.empty(0, device=positions.device)
        cos, sin = self.modules.rotary(like, positions)
        return cos, sin
