"""Following and decoding over a cache from which rows leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from models.decoding import greedy
from models.decoding.answers import Answer, Together
from models.decoding.evicting import Evicting
from models.decoding.greedy import Decoded
from models.finite import require_finite
from models.flight import Flight
from models.prefill import Prefill


@contextmanager
def copied(together: Together, evicting: Evicting) -> Iterator[Evicting]:
    """A copy to go on with, whose memory is handed back."""
    cache, buffer = together.cache(evicting.cache.capacity)
    try:
        yield evicting.fork(cache, buffer)
    finally:
        together.give_back(buffer)


@torch.inference_mode()
def follow(evicting: Evicting, prefill: Prefill, tokens: Sequence[int]) -> Tensor:
    """Teacher-forced logits along ``tokens``, float32 ``[len(tokens), vocabulary]``.

    As :meth:`models.engine.Engine.follow`: as many at once as may pass before rows leave.

    Raises
    ------
    NotFinite : they hold NaN or infinite values.
    """
    found, rest = [prefill.logits[None]], list(tokens[:-1])
    while rest:
        count = evicting.due(len(rest))
        found.append(_extend(evicting, rest[:count]))
        rest = rest[count:]
    logits = torch.cat(found)
    require_finite(logits, "the logits")
    return logits


@torch.inference_mode()
def decode(
    evicting: Evicting, prefill: Prefill, max_new_tokens: int, stop_ids: Collection[int]
) -> Decoded:
    """Greedy decoding, one token at a time; what evictions take is not in ``step_ms``.

    Raises
    ------
    NotFinite : logits hold NaN or infinite values.
    """

    def step(token: int, _: int) -> tuple[int, Tensor]:
        logits = _extend(evicting, [token])
        return int(logits[0].argmax()), logits

    device, first = evicting.cache.kv.device, prefill.first_token
    return greedy.decode(
        device, [], first, max_new_tokens, stop_ids, step, aside=lambda: evicting.ms
    )


def answer(
    together: Together,
    evicting: Evicting,
    prefill: Prefill,
    stop_ids: Collection[int],
    name: str = "the answer",
) -> Answer:
    """The greedy answer, to be decoded beside others; ``evicting`` is its own from here on."""
    found = Answer(
        evicting.cache,
        [],
        evicting.tokens,
        stop_ids,
        name,
        buffer=evicting.buffer,
        evicting=evicting,
    )
    found.add(prefill.first_token)
    if found.done:
        together.give_back(evicting.buffer)
    else:
        together.active.append(found)
    return found


def _extend(evicting: Evicting, tokens: Sequence[int]) -> Tensor:
    """Logits of new rows behind those that stayed, float32 ``[len(tokens), vocabulary]``."""
    cache, modules = evicting.cache, evicting.modules
    start, device = cache.seen, cache.kv.device
    end = start + len(tokens)
    ids, positions = torch.tensor(tokens, device=device), torch.arange(start, end, device=device)
    flight = Flight(
        modules,
        cache,
        ids,
        positions,
        end,
        evicting.rotary,
        modules.backend,
        len(tokens) if evicting.steps else 0,
    )
    flight.run_to(len(modules.layers))
    evicting.passed(flight.queries)
    return modules.logits(flight.hidden[0]).float()
