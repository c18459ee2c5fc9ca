"""The library's own forward and its own ``generate``, over the same weights as it keeps them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from models.attention.registry import INTERFACE
from models.linear.layers import unpacked
from models.load.source import quiet
from models.timing import synchronize


class Library:
    """transformers as its users run it: SDPA attention, a cache that grows by concatenation.

    Its linear layers are its own too: packed ones are laid out plainly for every call, and packed
    again, outside the time that is taken.

    Parameters
    ----------
    attention : the library's own name of what attends.
    """

    def __init__(self, model: Any, device: torch.device, attention: str = "sdpa") -> None:
        self.attention = attention
        self.model = model
        self.device = device

    @contextmanager
    def _own_layers(self) -> Iterator[None]:
        self.model.set_attn_implementation(self.attention)
        try:
            with unpacked(self.model):
                yield
        finally:
            self.model.set_attn_implementation(INTERFACE)

    @torch.inference_mode()
    def forward_ms(self, ids: Sequence[Sequence[int]], head: bool) -> float:
        """Milliseconds of one forward over a batch of equal lengths.

        ``head`` runs the last row through the LM head and brings the first token to the host; the
        other rows' logits are never computed.
        """
        with self._own_layers():
            batch = torch.tensor([list(row) for row in ids], device=self.device)
            synchronize(self.device)
            start = time.perf_counter()
            if head:
                logits = self.model(batch, use_cache=True, logits_to_keep=1).logits
                logits[0, -1].argmax().item()
            else:
                self.model.model(batch, use_cache=True)
            synchronize(self.device)
            return (time.perf_counter() - start) * 1e3

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], kv: Tensor, count: int) -> tuple[list[int], list[float]]:
        """Greedy ``generate`` of ``count`` tokens after a prompt whose KVs are known.

        Parameters
        ----------
        ids : the prompt and its first token, ``N + 1``.
        kv : ``[2, L, H_kv, N, D]``, keys post-RoPE; copied, so that every call finds the same.

        Returns
        -------
        the tokens, and the milliseconds of each after the first, whose step also sets up.
        """
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(zip(kv[0], kv[1], strict=True)):
            cache.update(keys[None].clone(), values[None].clone(), layer)
        clock = _Clock(self.device)
        nothing = self.model.config.vocab_size  # stops at a token that does not exist
        settings = GenerationConfig(
            max_new_tokens=count, do_sample=False, eos_token_id=nothing, pad_token_id=0
        )
        batch = torch.tensor([list(ids)], device=self.device)
        with self._own_layers(), quiet():
            self.model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                past_key_values=cache,
                generation_config=settings,
                streamer=clock,
            )
        steps = [(later - sooner) * 1e3 for sooner, later in pairwise(clock.times[1:])]
        return clock.tokens[1:], steps


class _Clock(BaseStreamer):
    """Notes when ``generate`` hands each token over; its first delivery is the prompt."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        """Called by ``generate`` with the tokens on the host."""
        synchronize(self.device)
        self.times.append(time.perf_counter())
        self.tokens.append(int(value.flatten()[-1]))

    def end(self) -> None:
        """Called by ``generate`` when it is done."""
