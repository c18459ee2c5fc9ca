"""Prefills, full or fused, into the cache; and what of their states may be looked at afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.choice import choose
from models.correction import Correction
from models.correctors import BaseCorrector
from models.finite import require_finite
from models.flight import Flight
from models.kv.transfer import LayerStream
from models.latest import Latest
from models.prefill import Prefill, seen
from models.probe import NO_HEADERS, Probe
from models.prompt import Headers, Prompt
from models.selectors import BaseSelector
from models.timing import Stopwatch
from models.truth import Truth, deviations, observe


class Prefilling(Latest):
    """Fills the cache with a prompt's states, and times how long that takes."""

    @torch.inference_mode()
    def full_prefill(self, prompt: Prompt) -> Prefill:
        """Every token in context; the reference for quality and for time.

        Raises
        ------
        NotFinite : the logits or the KVs hold NaN or infinite values.
        """
        self._begin(prompt)
        watch = Stopwatch(self.device, "events" in self.fast)
        ids = torch.tensor(prompt.ids, device=self.device)
        n = len(ids)
        positions, watched = torch.arange(n, device=self.device), min(n, self.observes)
        flight = self._flight(ids, positions, n, self._rotary(n), watched)
        return self._land(prompt, flight, watch)

    @torch.inference_mode()
    def reordered(self, prompt: Prompt, backend: str, cut: int) -> Tensor:
        """Logits of the full prefill with its sums in another order; what rounding alone moves.

        Parameters
        ----------
        backend : what attends. cut : rows of a first pass; the others follow in a second one.

        Returns
        -------
        float32 ``[vocabulary]``.
        """
        self._begin(prompt)
        ids, n = torch.tensor(prompt.ids, device=self.device), len(prompt)
        rotary = self._rotary(n)
        for first, end in ((0, cut), (cut, n)):
            if first == end:
                continue
            rows = torch.arange(first, end, device=self.device)
            flight = Flight(self.modules, self.cache, ids[rows], rows, end, rotary, backend)
            flight.run_to(len(self.modules.layers))
        logits = flight.head()
        require_finite(logits, "the logits")
        return logits

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
        headers: Headers = NO_HEADERS,
        corrector: BaseCorrector | None = None,
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
        headers : what stood in front of its chunks when they were captured.
        corrector : what changes the other rows of chunks, in the layers that run after the choice.

        Raises
        ------
        UserError : the selector failed, or chose what it may not, see :mod:`models.choice`.
        NotFinite : its scores, the logits or the KVs hold NaN or infinite values.
        """
        n = len(prompt)
        self._begin(prompt)
        watch = Stopwatch(self.device, "events" in self.fast)
        kv = self.cache.kv[:, :, :, :n]
        self.cache.stream = stream = read(watch, kv)
        try:
            ids = torch.tensor(prompt.ids, device=self.device)
            rotary = self._rotary(n)
            cos, sin = rotary[0][0], rotary[1][0]
            rotate_ = self.modules.family.rotate_cached_
            if stream is None:
                rotate_(kv[0], cos, sin)
            else:
                stream.prepare = lambda layer: rotate_(kv[0, layer : layer + 1], cos, sin)
            watch.lap("rotate")

            question = prompt.question[1] - prompt.question[0]

            def launch(positions: Tensor) -> Flight:
                watched = question if self.watches and len(positions) >= question else 0
                watched = max(watched, min(self.observes, len(positions)))
                return self._flight(ids[positions], positions, n, rotary, watched)

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
                headers,
            )
            positions = choose(probe, selector)
            watch.lap("select")
            if probe.flight is None:
                probe.flight = launch(positions)
            else:
                probe.flight.keep(positions)
            if corrector:
                with watch.aside("correct"):
                    correction = Correction(corrector, prompt, positions, rotary, watch)
                self.cache.correct = correction.apply
            return self._land(prompt, probe.flight, watch, probe.asked)
        finally:
            self.cache.correct = None
            self.cache.end_stream()

    @torch.inference_mode()
    def observe(self, prompt: Prompt) -> Truth:
        """States of the latest prefill, which must be the full one of ``prompt``.

        Raises
        ------
        ValueError : it is not.
        """
        self._require_prompt(prompt, full=True)
        return observe(self._question(prompt), prompt)

    @torch.inference_mode()
    def deviations(self, truth: Truth) -> tuple[list[float], list[float]]:
        """Δ_kv and Δ_attn by layer of the latest prefill, see :func:`models.truth.deviations`.

        Where its queries were not watched, the question runs over the cache anew; what that
        overwrites is put back.

        Raises
        ------
        ValueError : the latest prefill is of another prompt than ``truth``.
        """
        self._require_prompt(truth.prompt, full=False)
        assert self._latest is not None, "it was looked at above"
        return deviations(self._question(truth.prompt), truth, self._latest.queries)

    def _question(self, prompt: Prompt) -> Flight:
        """The question's rows before the first layer, over the KVs that the cache holds."""
        positions = torch.arange(*prompt.question, device=self.device)
        ids = torch.tensor(prompt.ids[slice(*prompt.question)], device=self.device)
        n = len(prompt)
        return self._flight(ids, positions, n, self._rotary(n))

    def _land(
        self,
        prompt: Prompt,
        flight: Flight,
        watch: Stopwatch,
        before: Sequence[tuple[Tensor, int]] | None = None,
    ) -> Prefill:
        """Run what is in flight to the end: last layers, then the last row through the LM head.

        ``before`` are the passes of the choice in a fused prefill, None in a full one. What was
        computed is looked at when the watch has stopped.
        """
        flight.run_to(len(self.modules.layers))
        watch.lap("recompute")
        logits = flight.head()
        first_token = int(logits.argmax())
        watch.lap("head")
        total = watch.total()
        require_finite(logits, "the logits")
        require_finite(self.cache.kv[:, :, :, : len(prompt)], "the KVs")
        passes = [*(before or ()), *flight.passes]
        self._latest = Prefill(
            prompt,
            before is None,
            logits,
            first_token,
            flight.positions,
            passes,
            total,
            watch.parts,
            seen(flight, prompt),
            flight.last_queries() if self.observes else [],
        )
        return self._latest
