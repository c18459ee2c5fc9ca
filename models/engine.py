"""Prefill, full or fused, and greedy decoding, over one preallocated cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.attention.registry import choose_backend
from models.flight import Flight
from models.kv.cache import FusedCache
from models.kv.rotary import rotate_keys_
from models.kv.transfer import LayerStream
from models.modules import Modules
from models.probe import Probe
from models.prompt import Prompt
from models.selectors import BaseSelector
from models.timing import Stopwatch
from models.truth import Truth, deviations, observe


@dataclass
class Prefill:
    """What a prefill leaves: the first token, how it was reached, and how long that took.

    The cache itself stays in the engine, ready to decode from, until the next prefill.

    Attributes
    ----------
    length : tokens of the prompt.
    logits : float32 ``[vocabulary]`` of the last prompt row.
    first_token : its most likely id.
    recomputed : ``[R]`` sorted positions that were computed in context through the last layer.
    passes : every group of rows that was run, and through how many layers it went.
    ttft_ms : token ids in memory → first token id on the host.
    parts_ms : the same time by part, see :data:`models.timing.PARTS`.
    """

    length: int
    logits: Tensor
    first_token: int
    recomputed: Tensor
    passes: list[tuple[Tensor, int]]
    ttft_ms: float
    parts_ms: dict[str, float]


@dataclass
class Decoded:
    """Greedy continuation.

    Attributes
    ----------
    tokens : the answer without the token that stopped it.
    step_ms : milliseconds of every token after the first, so that their mean is the TPOT.
    stop_token : what ended the answer, None when its length did.
    """

    tokens: list[int]
    step_ms: list[float] = field(default_factory=list)
    stop_token: int | None = None


class Engine:
    """One model, one cache, one attention back end, for every method alike."""

    def __init__(self, model: Any, backend: str = "auto") -> None:
        self.modules = Modules(model)
        self.device = self.modules.device
        self.backend = choose_backend(
            self.device, self.modules.dtype, self.modules.head_dim, backend
        )
        self.cache = FusedCache(self.modules.cache_shape, self.device, self.modules.dtype)

    def _flight(
        self, ids: Tensor, positions: Tensor, n_keys: int, rotary: tuple[Tensor, Tensor]
    ) -> Flight:
        return Flight(self.modules, self.cache, ids, positions, n_keys, rotary, self.backend)

    def _rotary(self, n: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(n, device=self.device)[None]
        return self.modules.rotary(self.modules.embed.weight, positions)

    def _land(
        self, flight: Flight, watch: Stopwatch, before: Sequence[tuple[Tensor, int]] = ()
    ) -> Prefill:
        """Run what is in flight to the end: last layers, then the last row through the LM head."""
        flight.run_to(len(self.modules.layers))
        watch.lap("recompute")
        logits = flight.head()
        first_token = int(logits.argmax())
        watch.lap("head")
        total = watch.total()
        passes = [*before, *flight.passes]
        return Prefill(
            flight.n_keys, logits, first_token, flight.positions, passes, total, watch.parts
        )

    @torch.inference_mode()
    def full_prefill(self, prompt: Prompt) -> Prefill:
        """Every token in context; the reference for quality and for time."""
        self.cache.length = 0
        self.cache.reserve(len(prompt))
        watch = Stopwatch(self.device)
        ids = torch.tensor(prompt.ids, device=self.device)
        n = len(ids)
        flight = self._flight(ids, torch.arange(n, device=self.device), n, self._rotary(n))
        return self._land(flight, watch)

    @torch.inference_mode()
    def fused_prefill(
        self,
        prompt: Prompt,
        read: Callable[[Stopwatch, Tensor], LayerStream | None],
        selector: BaseSelector,
        rate: float,
        generator: torch.Generator,
        scores: Callable[[str], Tensor] | None = None,
        truth: Truth | None = None,
        item_id: str = "",
    ) -> Prefill:
        """Cached KVs, with the selected positions recomputed in context.

        Parameters
        ----------
        read : fills ``[2, L, H_kv, N, D]`` (a view of the cache) with unrotated keys and values
            from wherever the run says they are, and charges ``load`` and ``transfer``; or returns
            a stream that brings them layer by layer, so that each is waited for when it is needed.
        rate : recompute ratio ``r`` in [0, 1].
        scores : name → float32 ``[N]``, scores found offline, read when a selector asks for them.
        truth : the item's full prefill, from :meth:`observe`; for oracles.
        item_id : its name, for a selector that is told positions by item.
        """
        n = len(prompt)
        self.cache.length = 0
        self.cache.reserve(n)
        watch = Stopwatch(self.device)
        kv = self.cache.kv[:, :, :, :n]
        self.cache.stream = stream = read(watch, kv)
        try:
            ids = torch.tensor(prompt.ids, device=self.device)
            rotary = self._rotary(n)
            cos, sin = rotary[0][0], rotary[1][0]
            if stream is None:
                rotate_keys_(kv[0], cos, sin)
            else:
                stream.prepare = lambda layer: rotate_keys_(kv[0, layer : layer + 1], cos, sin)
            watch.lap("rotate")

            def launch(positions: Tensor) -> Flight:
                return self._flight(ids[positions], positions, n, rotary)

            probe = Probe(
                prompt,
                rate,
                launch,
                self.modules,
                self.cache,
                generator,
                scores,
                truth,
                item_id,
            )
            positions = self._choose(probe, selector)
            watch.lap("select")
            if probe.flight is None:
                probe.flight = launch(positions)
            else:
                probe.flight.keep(positions)
            return self._land(probe.flight, watch, probe.asked)
        finally:
            self.cache.end_stream()

    def _choose(self, probe: Probe, selector: BaseSelector) -> Tensor:
        """Positions to recompute, the question's too where the selector wants them; sorted."""
        positions = selector.select(probe)
        if selector.adds_question:
            question = torch.arange(*probe.prompt.question, device=self.device)
            positions = torch.cat([positions, question])
        return positions.sort().values

    @torch.inference_mode()
    def observe(self, prompt: Prompt) -> Truth:
        """States of the latest prefill, which must be the full one of ``prompt``."""
        return observe(self._question(prompt), prompt)

    @torch.inference_mode()
    def deviations(self, truth: Truth) -> tuple[list[float], list[float]]:
        """Δ_kv and Δ_attn by layer of the latest prefill, see :func:`models.truth.deviations`.

        Runs the question over the cache anew, and puts back what that overwrites.
        """
        return deviations(self._question(truth.prompt), truth)

    def _question(self, prompt: Prompt) -> Flight:
        """The question's rows before the first layer, over the KVs that the cache holds."""
        positions = torch.arange(*prompt.question, device=self.device)
        ids = torch.tensor(prompt.ids[slice(*prompt.question)], device=self.device)
        n = len(prompt)
        return self._flight(ids, positions, n, self._rotary(n))

    @torch.inference_mode()
    def decode(
        self,
        prefill: Prefill,
        max_new_tokens: int,
        stop_ids: Collection[int],
        given: Sequence[int] = (),
    ) -> Decoded:
        """Greedy decoding after the latest prefill, one token at a time.

        Stops before a stop token or after ``max_new_tokens`` tokens. May be called again after
        :meth:`follow`: it starts over from the end of the prompt.

        Parameters
        ----------
        given : the greedy answer's beginning where it is known, its last token not yet in the
            cache (the others are, by :meth:`follow`).
        """
        n = prefill.length
        *known, token = given or [prefill.first_token]
        out = Decoded(known)
        rotary = self._rotary(n + max_new_tokens)
        while len(out.tokens) < max_new_tokens:
            if token in stop_ids:
                out.stop_token = token
                break
            out.tokens.append(token)
            if len(out.tokens) == max_new_tokens:
                break
            watch = Stopwatch(self.device)
            token = int(self._extend([token], n + len(out.tokens) - 1, rotary)[0].argmax())
            out.step_ms.append(watch.total())
        return out

    @torch.inference_mode()
    def follow(self, prefill: Prefill, tokens: Sequence[int]) -> Tensor:
        """Teacher-forced logits along ``tokens`` after the latest prefill.

        Returns
        -------
        float32 ``[len(tokens), vocabulary]``: row ``i`` predicts ``tokens[i]``; row 0 is the
        prefill's own.
        """
        rows = [prefill.logits[None]]
        if len(tokens) > 1:
            rotary = self._rotary(prefill.length + len(tokens))
            rows.append(self._extend(tokens[:-1], prefill.length, rotary))
        return torch.cat(rows)

    def _extend(self, tokens: Sequence[int], start: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Logits of new rows at ``start`` and after, ``[len(tokens), vocabulary]`` in float32."""
        end = start + len(tokens)
        self.cache.reserve(end)
        ids = torch.tensor(tokens, device=self.device)
        positions = torch.arange(start, end, device=self.device)
        flight = self._flight(ids, positions, end, rotary)
        flight.run_to(len(self.modules.layers))
        return self.modules.logits(flight.hidden[0]).float()
