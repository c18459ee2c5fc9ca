"""Prefill, full or fused, and greedy decoding, over one preallocated cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models import tuning
from models.answers import Answer, Together
from models.choice import choose
from models.correction import Correction
from models.correctors import BaseCorrector
from models.evicting import Evicting, most_kept, watched
from models.eviction.base import BasePolicy
from models.finite import require_finite
from models.flight import Flight
from models.graph import Steps, keys_for
from models.kv.cache import FusedCache
from models.kv.transfer import LayerStream
from models.modules import Modules
from models.probe import NO_HEADERS, Probe
from models.prompt import Headers, Prompt
from models.selectors import BaseSelector
from models.timing import Stopwatch
from models.truth import Truth, deviations, observe

COMPILER = "inductor"
WARM_TOKENS = 48


@dataclass
class Prefill:
    """What a prefill leaves: the first token, how it was reached, and how long that took.

    The cache itself stays in the engine, ready to decode from, until the next prefill.

    Attributes
    ----------
    prompt : what was prefilled.
    full : whether all of it was computed in context.
    logits : float32 ``[vocabulary]`` of the last prompt row.
    first_token : its most likely id.
    recomputed : ``[R]`` sorted positions that were computed in context through the last layer.
    passes : every group of rows that was run, and through how many layers it went.
    ttft_ms : token ids in memory → first token id on the host.
    parts_ms : the same time by part, see :data:`models.timing.PARTS`.
    queries : ``[H, q, D]`` of the question's rows in every layer, where they were watched.
    observed : ``[H, q, D]`` of the prompt's last rows in every layer, as far as they were computed
        and asked for (:attr:`Engine.observes`).
    """

    prompt: Prompt
    full: bool
    logits: Tensor
    first_token: int
    recomputed: Tensor
    passes: list[tuple[Tensor, int]]
    ttft_ms: float
    parts_ms: dict[str, float]
    queries: list[Tensor] | None = None
    observed: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)


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
    """One model, one cache, one attention back end, for every method alike.

    Parameters
    ----------
    fast : switches of :mod:`models.tuning` that are on.
    """

    def __init__(self, model: Any, backend: str = "auto", fast: Collection[str] = ()) -> None:
        self.fast = tuning.check(fast)
        self.modules = Modules(model, backend)
        self.modules.plans = "plan" in self.fast
        self.modules.tile = tuning.TILE if "tiles" in self.fast else 1
        self.device = self.modules.device
        self.backend = self.modules.backend
        self.cache = FusedCache(self.modules.cache_shape, self.device, self.modules.dtype)
        self.together = Together(self.modules, self.backend)
        self.observes = 0  # so many of a prompt's last queries are kept, for policies
        self.watches = False  # keeps the question's queries of fused prefills, for deviations
        self._latest: Prefill | None = None  # whose states the cache holds
        self._behind: list[int] = []  # tokens whose rows lie behind its prompt
        self._steps: Steps | None = None
        if "compile" in self.fast:
            self._compile()

    def _compile(self) -> None:
        """Norms and MLPs as ``torch.compile`` makes them, made here and not inside a clock."""
        for layer in self.modules.layers:
            for part in self.modules.family.dense(layer):
                part.compile(backend=COMPILER, dynamic=True)
        ids = list(range(1, 1 + WARM_TOKENS))
        for count in (WARM_TOKENS, WARM_TOKENS // 2):  # two lengths, then one row: all there are
            prefill = self.full_prefill(Prompt.join([], [ids[: count - 1]], ids[count - 1 : count]))
        self.decode(prefill, 3, ())

    def _flight(
        self,
        ids: Tensor,
        positions: Tensor,
        n_keys: int,
        rotary: tuple[Tensor, Tensor],
        watched: int = 0,
    ) -> Flight:
        return Flight(
            self.modules, self.cache, ids, positions, n_keys, rotary, self.backend, watched
        )

    def _rotary(self, n: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(n, device=self.device)[None]
        return self.modules.rotary(self.modules.embed.weight, positions)

    def _begin(self, prompt: Prompt) -> None:
        """Forget the latest prefill and make room for another."""
        self._latest, self._behind = None, []
        self.cache.clear()
        self.cache.reserve(len(prompt))

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
            _seen(flight, prompt),
            flight.last_queries() if self.observes else [],
        )
        return self._latest

    def _require_latest(self, prefill: Prefill) -> None:
        if prefill is not self._latest:
            raise ValueError("this prefill is not the latest: the cache holds another one by now")

    def _require_prompt(self, prompt: Prompt, full: bool) -> None:
        held = self._latest
        if held is None or held.prompt != prompt or (full and not held.full):
            kind = "full" if full else "latest"
            raise ValueError(f"the cache does not hold the {kind} prefill of this prompt")

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

        Raises
        ------
        ValueError : the cache holds another prefill by now, or other tokens than ``given``.
        """
        self._require_latest(prefill)
        n = prefill.length
        *known, token = given or [prefill.first_token]
        if self._behind[: len(known)] != known:
            raise ValueError("the given tokens are not in the cache: follow them first")
        out = Decoded(known)
        step = self._stepper(token, n + len(known), n + max_new_tokens)
        while len(out.tokens) < max_new_tokens:
            if token in stop_ids:
                out.stop_token = token
                break
            out.tokens.append(token)
            if len(out.tokens) == max_new_tokens:
                break
            watch = Stopwatch(self.device)
            token, logits = step(token, n + len(out.tokens) - 1)
            out.step_ms.append(watch.total())
            require_finite(logits, "the logits")
        return out

    @torch.inference_mode()
    def evict(self, prefill: Prefill, policy: BasePolicy, tokens: int) -> Evicting:
        """What stays of the latest prefill's rows, in memory of its own; the cache stays whole.

        Of a fused prefill a policy sees the queries of the last rows that follow each other: the
        question's, where the documents' end was not recomputed.

        Parameters
        ----------
        tokens : room for so many behind them.

        Raises
        ------
        ValueError : as :meth:`decode`; or queries that the policy looks at were not kept, see
            :attr:`observes`.
        UserError, NotFinite : as :func:`models.eviction.base.keep`.
        """
        self._require_latest(prefill)
        self.cache.rewind(prefill.length)
        if watched(policy) and not prefill.observed:
            raise ValueError("the policy looks at queries, and none were kept")
        room = most_kept(policy, prefill.length, len(self.modules.layers)) + tokens
        cache, buffer = self.together.cache(room)
        cache.kv.zero_()  # the first use of its pages is not the eviction's
        evicting = Evicting(self.modules, policy, prefill.length, tokens, cache, buffer)
        evicting.begin(self.cache, prefill.observed)
        return evicting

    def _stepper(
        self, token: int, position: int, end: int
    ) -> Callable[[int, int], tuple[int, Tensor]]:
        """What gives the next token and the logits it was taken from, for a token at a position.

        Room for all of them is made here, before any step is timed.
        """
        if "graph" not in self.fast:
            self.cache.reserve(end)
            rotary = self._rotary(end)

            def extend(token: int, position: int) -> tuple[int, Tensor]:
                logits = self._extend([token], position, rotary)
                return int(logits[0].argmax()), logits

            return extend
        assert self._latest is not None, "there is something to go on from"
        first = self._latest.length
        n_keys = keys_for(end)
        self.cache.reserve(n_keys)
        if self._steps is None or not self._steps.fits(n_keys):
            self._steps = Steps(self.modules, self.cache, n_keys)
        steps = self._steps
        steps.begin(token, position)

        def replay(token: int, position: int) -> tuple[int, Tensor]:
            self._behind[position - first :] = [token]
            following = steps.advance()
            self.cache.lengths = [position + 1] * len(self.cache.layers)
            return following, steps.logits

        return replay

    def _beginning(self, prefill: Prefill, given: Sequence[int]) -> Sequence[int]:
        """What an answer goes on from: its last token is not in the cache yet, the others are."""
        self._require_latest(prefill)
        known = given or [prefill.first_token]
        if self._behind[: len(known) - 1] != list(known[:-1]):
            raise ValueError("the given tokens are not in the cache: follow them first")
        return known

    @torch.inference_mode()
    def answer(
        self,
        prefill: Prefill,
        max_new_tokens: int,
        stop_ids: Collection[int],
        given: Sequence[int] = (),
        name: str = "the answer",
        own: bool = True,
    ) -> Answer:
        """The greedy answer after the latest prefill, to be decoded beside others.

        It is among :attr:`together` from here on, unless it is complete already.

        Parameters
        ----------
        given : as in :meth:`decode`.
        own : it gets a copy of the cache, so that other prefills may follow. Otherwise it lives in
            the engine's cache and must be finished before the next prefill.

        Raises
        ------
        ValueError : as :meth:`decode`.
        """
        *known, token = self._beginning(prefill, given)
        room = prefill.length + max_new_tokens
        self.cache.rewind(prefill.length + len(known))
        cache, buffer = self.cache, None
        if own:
            cache, buffer = self.together.cache(room)
            cache.copy(self.cache)
        else:
            self.cache.reserve(room)
            self._behind = []  # its rows will lie there
        answer = Answer(cache, known, max_new_tokens, stop_ids, name, buffer=buffer)
        answer.add(token)
        if not answer.done:
            self.together.active.append(answer)
        return answer

    @torch.inference_mode()
    def follow(self, prefill: Prefill, tokens: Sequence[int]) -> Tensor:
        """Teacher-forced logits along ``tokens`` after the latest prefill.

        Returns
        -------
        float32 ``[len(tokens), vocabulary]``: row ``i`` predicts ``tokens[i]``; row 0 is the
        prefill's own.

        Raises
        ------
        ValueError : the cache holds another prefill by now.
        """
        self._require_latest(prefill)
        n = prefill.length
        rows = [prefill.logits[None]]
        if len(tokens) > 1:
            rows.append(self._extend(tokens[:-1], n, self._rotary(n + len(tokens))))
            require_finite(rows[1], "the logits")
        return torch.cat(rows)

    def _extend(self, tokens: Sequence[int], start: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Logits of new rows at ``start`` and after, ``[len(tokens), vocabulary]`` in float32."""
        assert self._latest is not None, "there is something to go on from"
        self._behind[start - self._latest.length :] = tokens
        end = start + len(tokens)
        self.cache.reserve(end)
        ids = torch.tensor(tokens, device=self.device)
        positions = torch.arange(start, end, device=self.device)
        flight = self._flight(ids, positions, end, rotary)
        flight.run_to(len(self.modules.layers))
        return self.modules.logits(flight.hidden[0]).float()


def _seen(flight: Flight, prompt: Prompt) -> list[Tensor] | None:
    """Queries of the question's rows in all layers, where those were watched to the end."""
    first, end = prompt.question
    rows = end - first
    if not 0 < rows <= flight.watched or len(flight.queries) != flight.layer:
        return None  # not watched, or rows that began above the first layer
    if len(flight.positions) < rows or int(flight.positions[-rows]) != first:
        return None
    return [queries[:, -rows:] for queries in flight.queries]
