"""What follows a first token: the full prefill's answer, and a method's own along it and after."""

from __future__ import annotations

import torch
from torch import Tensor

from data.inputs import Item
from eval.item.after import After
from eval.item.kept import KeptAnswers
from eval.item.naming import named
from eval.item.reference import Reference
from models.decoding import leaving
from models.decoding.evicting import most_kept
from models.engine import Engine, Prefill
from models.eviction import BasePolicy
from models.kv import store
from stage.ledger import Ledger
from stage.session import Session

TPOT_STEPS = 4  # decoded alone, behind the first token, to be timed; answers are decoded together
Along = tuple[list[int], list[int], Tensor]  # an answer, the same with its stop token, its logits


class Answering:
    """Goes on from prefills to answers, up to one length for all items of a dataset.

    Parameters
    ----------
    cold : times are wanted, so that a few tokens of each answer are decoded alone.

    Attributes
    ----------
    kept : where answers of full prefills are kept, None where they are not.
    """

    def __init__(self, session: Session, ledger: Ledger, max_new_tokens: int, cold: bool) -> None:
        self.session = session
        self.ledger = ledger
        self.max_new_tokens = max_new_tokens
        self.cold = cold
        self.stops = frozenset(session.weights.known.stop_ids)
        self.kept: KeptAnswers | None = None

    @property
    def engine(self) -> Engine:
        """The session's engine: asked for the first time, it loads the weights."""
        return self.session.engine

    def known(self, item: Item, prefill: Prefill) -> Along | None:
        """The answer that an earlier run kept, where the logits along it still say the same.

        In half precision they may not, at near ties: many rows at once round otherwise than few.
        """
        found = self.kept.recall(item.prompt.sha256()) if self.kept else None
        if found is None:
            return None
        tokens, forced = found[0], _forced(*found)
        with self.ledger.charge("follow"):
            logits = self.engine.follow(prefill, forced)
        exact = self.engine.modules.dtype == torch.float32
        if exact and logits.argmax(-1).tolist() != forced:
            return None
        return tokens, forced, logits

    def decoded(self, item: Item, prefill: Prefill, name: str) -> Along:
        """The answer, decoded while those that wait are taken further beside it."""
        with self.ledger.charge("decode"):
            answer = self.engine.answer(
                prefill, self.max_new_tokens, self.stops, name=name, own=False
            )
            self.engine.together.finish(answer)
        forced = _forced(answer.tokens, answer.stop_token)
        with named(name), self.ledger.charge("follow"):
            logits = self.engine.follow(prefill, forced)
        if self.kept:
            self.kept.keep(item.prompt.sha256(), answer.tokens, answer.stop_token)
        return answer.tokens, forced, logits

    def full(self, reference: Reference) -> After:
        """The full prefill's own answer."""
        kv_bytes = store.kv_bytes(self.engine.modules, reference.prefill.length)
        tokens, generated = reference.tokens, len(reference.forced)
        return After(reference.logits, kv_bytes, reference.tpot_ms, None, tokens, generated)

    def whole(self, ready: Prefill, reference: Reference, name: str) -> After:
        """An answer over all rows.

        In float32 it goes on from where it leaves the full prefill's: up to there it was already
        followed, token by token. In half precision many rows at once round otherwise than few,
        enough to flip a near tie.
        """
        tpot = self.tpot(ready) if self.cold else None
        with self.ledger.charge("follow"):
            logits = self.engine.follow(ready, reference.forced)
        kv_bytes = store.kv_bytes(self.engine.modules, ready.length)
        same = self._agreed(logits, reference)
        if same is None:
            tokens, generated = reference.tokens, len(reference.forced)
            return After(logits, kv_bytes, tpot, None, tokens, generated)
        with self.ledger.charge("decode"):
            own = self.engine.together.admits(ready.length + self.max_new_tokens)
            answer = self.engine.answer(
                ready, self.max_new_tokens, self.stops, same, name=name, own=own
            )
        return After(logits, kv_bytes, tpot, answer, [], 0, at_once=not own)

    def _agreed(self, logits: Tensor, reference: Reference) -> list[int] | None:
        """The beginning of an answer that following the full prefill's has told; None: all of it.

        Nothing in half precision.
        """
        if self.engine.modules.dtype != torch.float32:
            return []
        greedy = logits.argmax(-1).tolist()
        pairs = enumerate(zip(greedy, reference.forced, strict=True))
        same = next((i for i, (ours, theirs) in pairs if ours != theirs), None)
        return None if same is None else [*reference.forced[:same], greedy[same]]

    def dropping(
        self, policy: BasePolicy, prefill: Prefill, reference: Reference, name: str
    ) -> After:
        """An answer over the rows that a policy leaves.

        Each pass over them has a copy of its own: what a token lets go is gone for whatever else
        would begin there.
        """
        engine, tokens = self.engine, self.max_new_tokens
        n_layers = len(engine.modules.layers)
        own = engine.together.admits(most_kept(policy, prefill.length, n_layers) + tokens)
        with self.ledger.charge("decode"):
            evicting = engine.evict(prefill, policy, tokens)
            kv_bytes, step_ms = evicting.cache.bytes, None
            if self.cold:
                with leaving.copied(engine.together, evicting) as copy:
                    length = min(1 + TPOT_STEPS, tokens)
                    steps = leaving.decode(copy, prefill, length, self.stops).step_ms
                step_ms = sum(steps) / len(steps) if steps else None
        with self.ledger.charge("follow"), leaving.copied(engine.together, evicting) as copy:
            logits = leaving.follow(copy, prefill, reference.forced)
        if self._agreed(logits, reference) is None:
            engine.together.give_back(evicting.buffer)
            told = reference.tokens, len(reference.forced)
            return After(logits, kv_bytes, step_ms, None, *told, evicting=copy)
        answer = leaving.answer(engine.together, evicting, prefill, self.stops, name)
        return After(logits, kv_bytes, step_ms, answer, [], 0, evicting=evicting, at_once=not own)

    def warm_up(self, policy: BasePolicy, prefill: Prefill, reference: Reference) -> None:
        """A policy once, to be thrown away: what it calls is warm then."""
        evicting = self.engine.evict(prefill, policy, self.max_new_tokens)
        leaving.follow(evicting, prefill, reference.forced)
        self.engine.together.give_back(evicting.buffer)

    def tpot(self, prefill: Prefill) -> float | None:
        """Milliseconds of a token decoded alone, the mean over a few."""
        with self.ledger.charge("decode"):
            length = min(1 + TPOT_STEPS, self.max_new_tokens)
            steps = self.engine.decode(prefill, length, self.stops).step_ms
        return sum(steps) / len(steps) if steps else None


def _forced(tokens: list[int], stop: int | None) -> list[int]:
    """An answer with the stop token that ended it."""
    return tokens if stop is None else [*tokens, stop]
