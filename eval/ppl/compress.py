"""A context's keys, values and queries, computed once, and what each policy leaves of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.eviction import BasePolicy, Rows
from models.eviction.generate import EvictingCache, evicting
from models.timing import synchronize


@dataclass
class Whole(BasePolicy):
    """Evicts nothing, and looks at nothing."""

    keep: float = 1.0

    def score(self, rows: Rows) -> Tensor:
        """All alike; never asked for, since everything stays."""
        return torch.zeros(rows.keys.shape[:3])


@dataclass
class Recorder(Whole):
    """Evicts nothing and remembers every query: what any policy may look at later."""

    @property
    def window(self) -> int:
        return 1 << 30


@torch.inference_mode()
def record(model: Any, ids: list[int]) -> EvictingCache:
    """The cache of a full prefill, with the queries of all its rows."""
    with evicting(model, Recorder()) as cache:
        batch = torch.tensor([ids], device=model.device)
        model.model(batch, past_key_values=cache, use_cache=True)
    return cache


@contextmanager
def compressed(model: Any, context: EvictingCache, policy: BasePolicy) -> Iterator[EvictingCache]:
    """The cache that a prefill under ``policy`` leaves, made from the recorded one.

    The same code evicts as does after a real prefill; ``context`` stays as it is.
    """
    with evicting(model, policy) as cache:
        place = torch.arange(context.first.seen, device=model.device)[None]
        fresh = (torch.ones_like(place, dtype=torch.bool), place)
        for index, (layer, whole) in enumerate(zip(cache.layers, context.layers, strict=True)):
            queries = None
            if policy.accumulates:
                queries = whole.queries
            elif policy.window:
                queries = whole.queries[:, :, -policy.window :]
            layer.update(whole.keys, whole.values)
            which = (index, len(cache.layers))
            layer.settle(policy, which, fresh, queries, cache.scale, cache.angles)
        yield cache


def shuffled(cache: EvictingCache, seed: int) -> None:
    """Leave the kept rows in an order that tells nothing of time, as top-k without sorting does."""
    for layer in cache.layers:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(layer.kept, generator=generator).to(layer.keys.device)
        layer.keys, layer.values = layer.keys[:, :, order], layer.values[:, :, order]
        layer.positions = layer.positions[:, :, order]


@dataclass
class Times:
    """Milliseconds, and tokens a second.

    Attributes
    ----------
    ttft_ms : context in memory → first token, eviction included.
    evict_ms : of it, what the policy took: scores, choice and moving rows, all layers.
    tpot_ms : a decoded token, one row alone.
    tokens_per_s : over all rows of a batch that decodes together.
    """

    ttft_ms: float
    evict_ms: float
    tpot_ms: float
    tokens_per_s: float


STEPS = 6  # decoded tokens that are timed; the fastest counts, the first warms up


@torch.inference_mode()
def timed(
    model: Any, ids: list[int], context: EvictingCache, policy: BasePolicy, batch: int
) -> Times:
    """Times of a real prefill under ``policy``, of evicting alone, and of decoding behind it."""
    row = torch.tensor([ids], device=model.device)
    with evicting(model, policy) as cache:
        start = _now(model)
        logits = model(row, past_key_values=cache, logits_to_keep=1).logits
        token = int(logits[0, -1].argmax())
        ttft = _now(model) - start
        alone = _step(model, cache, torch.tensor([[token]], device=model.device))
    start = _now(model)
    with compressed(model, context, policy) as cache:
        evict = _now(model) - start
        for layer in cache.layers:
            layer.batch_repeat_interleave(batch)
        together = _step(model, cache, torch.full((batch, 1), token, device=model.device))
    return Times(ttft * 1e3, evict * 1e3, alone * 1e3, batch / together)


def _step(model: Any, cache: EvictingCache, tokens: Tensor) -> float:
    """Seconds of one decoded token for each row: the fastest of some."""
    seconds = []
    for _ in range(STEPS + 1):
        start = _now(model)
        logits = model(tokens, past_key_values=cache, logits_to_keep=1).logits
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        tokens.cpu()
        seconds.append(_now(model) - start)
    return min(seconds[1:])


def _now(model: Any) -> float:
    synchronize(model.device)
    return time.perf_counter()
