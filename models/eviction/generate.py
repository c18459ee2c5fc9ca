"""Eviction under the library's own ``forward`` and ``generate``: a cache and its hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from models.errors import UserError
from models.eviction.base import BasePolicy
from models.eviction.layer import EvictingLayer
from models.family import FAMILIES


class EvictingCache(Cache):
    """What a model of one of our families generates with while a policy evicts.

    Attributes
    ----------
    fresh : validity and positions of the tokens in flight, ``[B, q]`` each.
    """

    layers: Any  # all of them EvictingLayer

    def __init__(self, policy: BasePolicy, family: Any) -> None:
        self.policy = policy
        self.scale: float = family.scale
        self.fresh: tuple[Tensor, Tensor] | None = None
        self._rotary = family.rotary
        super().__init__(layers=[EvictingLayer() for _ in family.layers])

    @property
    def first(self) -> EvictingLayer:
        layer: EvictingLayer = self.layers[0]
        return layer

    def begin(self, shape: tuple[int, int], mask: Tensor | None, positions: Tensor) -> Tensor:
        """Take down which tokens come next; returns their positions, ``[B, q]``.

        Parameters
        ----------
        mask : ``[B, seen + q]``, 0 for pads, of all tokens so far; None where there are none.

        Raises
        ------
        UserError : the mask is of another kind.
        """
        n, q = shape
        if mask is None:
            valid = torch.ones(n, q, dtype=torch.bool, device=positions.device)
        elif mask.dim() == 2:
            valid = mask[:, -q:].to(positions.device, torch.bool)
        else:
            raise UserError("eviction takes an attention mask of [batch, tokens], no other")
        positions = positions.expand(n, q)
        if self.policy.renumbers and self.first.evicted and self.first.valid is not None:
            place = valid.cumsum(-1) - 1
            positions = self.first.valid.sum(-1)[:, None] + place.clamp(min=0)
        self.fresh = (valid, positions)
        return positions

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin ``[B, n, D]`` of positions ``[B, n]``, in float32: turning back rounds."""
        cos, sin = self._rotary(torch.empty(0, device=positions.device), positions)
        return cos, sin

    def kv_bytes(self) -> int:
        """Bytes of the keys and values that are held."""
        return sum(2 * int(layer.keys.nbytes) for layer in self.layers if layer.kept)


@contextmanager
def evicting(model: Any, policy: BasePolicy) -> Iterator[EvictingCache]:
    """A cache for ``model(..., past_key_values=cache)`` or ``model.generate``, for one sequence.

    Another sequence takes another cache, or :meth:`EvictingCache.reset`. Batches are padded on the
    left; each row is served as if it were alone. The hooks serve this cache only, and go with the
    context.

    Raises
    ------
    UserError : the model is of none of our families, or attends by something else than PyTorch.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UserError(f"eviction knows {', '.join(FAMILIES)}, not {kind}")
    attends = model.config._attn_implementation
    if attends not in ("sdpa", "eager"):
        raise UserError(f"eviction goes with sdpa or eager attention, not {attends}")
    family = FAMILIES[kind](model)
    cache = EvictingCache(policy, family)
    hooks = _Hooks(family, cache, attends == "eager")
    handles = [model.model.register_forward_pre_hook(hooks.before, with_kwargs=True)]
    for layer in family.layers:
        handles.append(layer.self_attn.register_forward_pre_hook(hooks.masked, with_kwargs=True))
        handles.append(layer.self_attn.register_forward_hook(hooks.after, with_kwargs=True))
    try:
        yield cache
    finally:
        for handle in handles:
            handle.remove()


class _Hooks:
    """What happens around a model's forward while its cache evicts."""

    def __init__(self, family: Any, cache: EvictingCache, additive: bool) -> None:
        self.family, self.cache, self.additive = family, cache, additive

    def before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Take down what comes; count positions inside of the cache where the policy does."""
        if kwargs.get("past_key_values") is not self.cache:
            return None
        inputs = args[0] if args else kwargs.get("input_ids")
        inputs = kwargs["inputs_embeds"] if inputs is None else inputs
        shape = (inputs.shape[0], inputs.shape[1])
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(shape[1], device=inputs.device)[None] + self.cache.first.seen
        positions = self.cache.begin(shape, kwargs.get("attention_mask"), positions)
        return args, {**kwargs, "position_ids": positions}

    def masked(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Layers may hold different rows; the library's mask is made for the first alone."""
        cache = self.cache
        if kwargs.get("past_key_values") is not cache or cache.fresh is None:
            return None
        layer: EvictingLayer = cache.layers[module.layer_idx]
        if not layer.evicted:
            return None
        mask = layer.mask(cache.fresh[0])
        if mask is not None and self.additive:
            dtype = kwargs["position_embeddings"][0].dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(dtype).min
            )
        return args, {**kwargs, "attention_mask": mask}

    def after(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """The layer has attended: its cache lets go of what the policy does not keep."""
        cache = self.cache
        if kwargs.get("past_key_values") is not cache or cache.fresh is None:
            return
        policy, index = cache.policy, module.layer_idx
        layer: EvictingLayer = cache.layers[index]
        queries = None
        if policy.window or policy.accumulates:
            hidden = args[0] if args else kwargs["hidden_states"]
            last = hidden.shape[1] if policy.accumulates else policy.window
            cos, sin = (part[:, -last:] for part in kwargs["position_embeddings"])
            queries = self.family.queries(index, hidden[:, -last:], cos, sin)
        place = (index, len(cache.layers))
        layer.settle(policy, place, cache.fresh, queries, cache.scale, cache.angles)
