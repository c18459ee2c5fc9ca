"""What follows a prefill: greedy decoding, and logits along tokens that are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from models.decoding import greedy
from models.decoding.answers import Answer, Together
from models.decoding.evicting import Evicting, most_kept, watched
from models.decoding.graph import Steps, keys_for
from models.decoding.greedy import Decoded
from models.eviction.base import BasePolicy
from models.finite import require_finite
from models.latest import Latest
from models.prefill import Prefill


class Continuing(Latest):
    """Goes on from the latest prefill, whose states the cache holds."""

    def __init__(self, model: Any, backend: str = "auto", fast: Collection[str] = ()) -> None:
        super().__init__(model, backend, fast)
        self.together = Together(self.modules, self.backend)
        self._steps: Steps | None = None  # recorded over the cache, where "graph" is on

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
        *known, token = self._beginning(prefill, given)
        n = prefill.length
        step = self._stepper(token, n + len(known), n + max_new_tokens)
        return greedy.decode(
            self.device,
            known,
            token,
            max_new_tokens,
            stop_ids,
            lambda token, index: step(token, n + index),
        )

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
