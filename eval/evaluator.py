"""One item: its full prefill once, then each method on the same tokens, kernels and cache."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.inputs import Item
from eval.after import After
from eval.analysis.fidelity import agreement, kl_divergence, mean_kl
from eval.config import EvalConfig
from eval.kept import KeptAnswers
from eval.metrics.decisions import same_decision
from eval.metrics.scores import score
from eval.variants import Variant, Where
from models import codecs, leaving
from models.answers import NoAnswer
from models.engine import Engine, Prefill
from models.errors import UserError
from models.evicting import most_kept
from models.eviction import BasePolicy
from models.finite import require_finite
from models.flops import flop_limit
from models.kv import store
from models.kv.chunked import ChunkedItem
from models.kv.store import StoredItem
from models.prompt import Prompt
from models.timing import Stopwatch
from models.truth import Truth
from stage import environment
from stage.ledger import Ledger
from stage.session import Session

TPOT_STEPS = 4  # decoded alone, behind the first token, to be timed; answers are decoded together
Along = tuple[list[int], list[int], Tensor]  # an answer, the same with its stop token, its logits
DESCRIBED_BY = ("length", "depth", "context_length", "task")


@dataclass
class Reference:
    """The full prefill of one item and its own greedy answer, and what its methods share.

    Attributes
    ----------
    tokens : the answer. forced : the answer with the stop token that ended it.
    logits : ``[len(forced), vocabulary]`` along it: methods are compared there.
    truth : the full prefill's states, where deviations or oracles ask for them.
    stored : the item's files of stage 2, by what chunks were captured behind.
    load_ms : reading them from disk, where methods share one load; by the same.
    kept : whether an earlier run decoded the answer.
    """

    prefill: Prefill
    text: str
    score: float | None
    tokens: list[int]
    forced: list[int]
    logits: Tensor
    tpot_ms: float | None
    truth: Truth | None
    stored: dict[Where, StoredItem | ChunkedItem]
    load_ms: dict[Where, float]
    kept: bool


@dataclass(frozen=True)
class Source:
    """Where methods that share a context find their KVs.

    Attributes
    ----------
    session : with chunks captured behind that context.
    needs : scores found offline that they read.
    """

    session: Session
    needs: list[str]

    def stored(self, item: Item) -> StoredItem | ChunkedItem:
        """The item's files of stage 2."""
        return self.session.stored(item, self.needs)


def sources(session: Session, variants: Sequence[Variant]) -> dict[Where, Source]:
    """Where the methods' KVs lie, by context and codec; the full prefill has none.

    Those that lie as they are come first: under another codec they need not be run again.
    """
    needs: dict[Where, set[str]] = {}
    for variant in variants:
        if variant.selector and variant.where:
            needs.setdefault(variant.where, set()).update(variant.selector.needs)
    return {
        (context, codec): Source(
            session.behind(context).under(codec), sorted(needs[context, codec])
        )
        for context, codec in sorted(needs, key=lambda source: source[1] != codecs.NONE)
    }


@dataclass
class Pending:
    """One item under one method, all but its answer.

    Attributes
    ----------
    record : what will be kept, without ``prediction``, scores and TPOT.
    after : its answer in the making, and what its tokens take.
    full : the full prefill's answer.
    """

    item: Item
    variant: Variant
    record: dict[str, Any]
    after: After
    full: str

    @property
    def done(self) -> bool:
        return self.after.done


class Evaluator:
    """Runs items of one dataset; knows the metric, the answer's length and where KVs lie."""

    def __init__(self, session: Session, config: EvalConfig, variants: Sequence[Variant]) -> None:
        self.session = session
        self.dataset = dataset = session.dataset
        self.config = config
        self.variants = variants
        self.max_new_tokens = config.max_new_tokens or dataset.max_new_tokens
        self.stops = frozenset(session.weights.known.stop_ids)
        self.observes = config.deviation or any(variant.oracle for variant in variants)
        self.sources = sources(session, variants)
        self.ledger = Ledger()
        self.kept: KeptAnswers | None = None  # where answers of full prefills are kept

    @property
    def engine(self) -> Engine:
        """The session's engine: asked for the first time, it loads the weights."""
        return self.session.engine

    def check(self, item: Item) -> None:
        """Raise, before anything is run, what would stop a method at this item."""
        for source in self.sources.values():
            source.stored(item).check(source.needs)
        for variant in self.variants:
            if variant.selector:
                variant.selector.check_item(item.id, item.prompt)

    def reference(self, item: Item) -> Reference:
        """Full prefill and greedy answer, timed like every method.

        Answers that wait are taken a few tokens further beside it.
        """
        name = _name(item, "full prefill")
        with _named(name):
            stored = {name: source.stored(item) for name, source in self.sources.items()}
            load_ms = {}
            if not self.config.cold:
                load_ms = {
                    name: self._load(item, found, self.sources[name].needs)
                    for name, found in stored.items()
                }
            with self.ledger.charge("prefill"):
                prefill = self.engine.full_prefill(item.prompt)
                truth = self.engine.observe(item.prompt) if self.observes else None
            tpot = self._tpot(prefill)
            answer = self._known(item, prefill)
        kept = answer is not None
        if answer is None:
            answer = self._decoded(item, prefill, name)
        tokens, forced, logits = answer
        with _named(name):
            text, points = self._score(item, tokens)
        return Reference(
            prefill, text, points, tokens, forced, logits, tpot, truth, stored, load_ms, kept
        )

    def _known(self, item: Item, prefill: Prefill) -> Along | None:
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

    def _decoded(self, item: Item, prefill: Prefill, name: str) -> Along:
        """The answer, decoded while those that wait are taken further beside it."""
        with self.ledger.charge("decode"):
            answer = self.engine.answer(
                prefill, self.max_new_tokens, self.stops, name=name, own=False
            )
            self.engine.together.finish(answer)
        forced = _forced(answer.tokens, answer.stop_token)
        with _named(name), self.ledger.charge("follow"):
            logits = self.engine.follow(prefill, forced)
        if self.kept:
            self.kept.keep(item.prompt.sha256(), answer.tokens, answer.stop_token)
        return answer.tokens, forced, logits

    def _load(self, item: Item, stored: StoredItem | ChunkedItem, needs: Sequence[str]) -> float:
        """Read the KVs from disk for all methods; milliseconds.

        Scores are brought into memory too, uncharged, or the first rate alone would pay for them.
        """
        n = len(item.prompt)
        with self.ledger.charge("load"):
            self.engine.cache.reserve(n)
            stored.check(needs)  # it may have been replaced since the run began
            stored.forget()
            watch = Stopwatch(self.engine.device)
            stream = stored.cold(watch, self.engine.cache.kv[:, :, :, :n])
            if stream:
                stream.finish()
            for name in needs:
                stored.scores(name)
        return watch.parts["load"]

    def fuse(
        self, item: Item, variant: Variant, reference: Reference
    ) -> tuple[Prefill | None, Prefill, bool | None]:
        """Cold, then cache-ready; and whether the page cache was dropped before the cold one.

        There is no cold run where the load is shared.

        Raises
        ------
        UserError : the method failed here; names item and method.
        """
        with _named(_name(item, f"method {variant.spec}")):
            return self._fuse(item, variant, reference)

    def _fuse(
        self, item: Item, variant: Variant, reference: Reference
    ) -> tuple[Prefill | None, Prefill, bool | None]:
        selector, behind = variant.selector, variant.where
        assert selector is not None
        assert behind is not None
        source, stored = self.sources[behind], reference.stored[behind]

        def prefill(read: Any) -> Prefill:
            generator = torch.Generator().manual_seed(_seed(self.config.seed, item.id))
            return self.engine.fused_prefill(
                item.prompt,
                read,
                selector,
                variant.rate or 0.0,
                generator,
                stored.scores,
                reference.truth,
                item.id,
                source.session.headers(item),
                variant.corrector,
            )

        if not self.config.cold:
            with self.ledger.charge("prefill"):
                return None, prefill(stored.ready), None
        with self.ledger.charge("load"):
            stored.check(source.needs)  # it may have been replaced since the run began
            dropped = stored.forget()
        with self.ledger.charge("prefill"):
            return prefill(stored.cold), prefill(stored.ready), dropped

    def begin(self, item: Item, variant: Variant, reference: Reference) -> Pending:
        """One item under one method, up to its answer, which is decoded beside others.

        Raises
        ------
        UserError : the method failed here; names item and method.
        """
        name = _name(item, f"method {variant.spec}")
        with _named(name):
            if variant.selector is None:
                measured, ready = self._full(reference), reference.prefill
            else:
                measured, ready = self._fused(item, variant, reference)
            if variant.policy:
                after = self._dropping_after(variant.policy, ready, reference, name)
            elif variant.selector is None:
                after = self._full_after(reference)
            else:
                after = self._whole_after(ready, reference, name)
            with self.ledger.charge("score"):
                measured |= self._distances(reference, ready, after)
            record = self._described(item, variant, reference, measured, ready)
        if after.answer and after.at_once:
            with self.ledger.charge("decode"):
                self.engine.together.finish(after.answer)
        return Pending(item, variant, record, after, reference.text)

    def complete(self, pending: Pending) -> dict[str, Any]:
        """Everything that is kept of one item under one method, once its answer is there.

        Raises
        ------
        UserError : a figure is NaN or infinite; names item and method.
        """
        item, record = pending.item, pending.record
        tokens = pending.after.found()
        with self.ledger.charge("score"), _named(_name(item, f"method {pending.variant.spec}")):
            text, points = self._score(item, tokens)
            record |= {"prediction": text, "score": points}
            record["same_decision"] = same_decision(
                text,
                pending.full,
                item.answers,
                first_line=self.dataset.first_line,
                all_classes=item.row["all_classes"],
            )
            record |= pending.after.times(not pending.variant.oracle)
            record["extra_scores"] = self._extra_scores(item, text)
            _require_finite(record)
        return record

    def advance(self, to_the_end: bool = False) -> None:
        """Take waiting answers further while enough of them wait, or complete them all."""
        with self.ledger.charge("decode"):
            if to_the_end:
                self.engine.together.finish()
            else:
                self.engine.together.advance()

    def _described(
        self,
        item: Item,
        variant: Variant,
        reference: Reference,
        measured: dict[str, Any],
        ready: Prefill,
    ) -> dict[str, Any]:
        prompt = item.prompt
        return {
            "id": item.id,
            **{name: item.row[name] for name in DESCRIBED_BY if name in item.row},
            "tokens": len(prompt),
            "question_tokens": prompt.question[1] - prompt.question[0],
            "documents": prompt.documents[1] - prompt.documents[0],
            "chunks": len(prompt.chunks),
            "recomputed": len(ready.recomputed),
            "selected": _bits(ready.recomputed, prompt),
            "selected_sha256": _digest(ready.recomputed),
            "answers": item.answers,
            "prediction": "",
            "score": None,
            **measured,
            "extra_scores": {},
            "full_score": reference.score,
            "full_prefill_ms": reference.prefill.ttft_ms,
            "load_ms": reference.load_ms.get(variant.where) if variant.where else None,
            "stored_bytes": reference.stored[variant.where].nbytes if variant.where else None,
            "answer_kept": reference.kept,
            "kvfuse": environment.revision(),
        }

    def _full(self, reference: Reference) -> dict[str, Any]:
        """The full prefill as its own method: its speed-up is 1 by construction."""
        ttft, parts = reference.prefill.ttft_ms, reference.prefill.parts_ms
        cold = self.config.cold
        layers = len(self.engine.modules.layers)
        return {
            "delta_kv": [0.0] * layers if self.config.deviation else None,
            "delta_attn": [0.0] * layers if self.config.deviation else None,
            "ttft_ms": {"cold": ttft if cold else None, "ready": ttft},
            "ttft_parts_ms": parts if cold else None,
            "ttft_parts_ready_ms": parts,
            "flop_limit": 1.0,
            "page_cache_dropped": None,
        }

    def _fused(
        self, item: Item, variant: Variant, reference: Reference
    ) -> tuple[dict[str, Any], Prefill]:
        cold, ready, dropped = self._fuse(item, variant, reference)
        delta_kv, delta_attn = None, None
        if self.config.deviation:
            assert reference.truth is not None, "observed because deviations were asked for"
            with self.ledger.charge("follow"):
                delta_kv, delta_attn = self.engine.deviations(reference.truth)
        timed = not variant.oracle
        measured = {
            "delta_kv": delta_kv,
            "delta_attn": delta_attn,
            "ttft_ms": {
                "cold": cold.ttft_ms if cold and timed else None,
                "ready": ready.ttft_ms if timed else None,
            },
            "ttft_parts_ms": cold.parts_ms if cold and timed else None,
            "ttft_parts_ready_ms": ready.parts_ms if timed else None,
            "flop_limit": flop_limit(self.engine.modules, len(item.prompt), ready.passes)
            if timed
            else None,
            "page_cache_dropped": dropped,
        }
        return measured, ready

    def _distances(self, reference: Reference, ready: Prefill, after: After) -> dict[str, Any]:
        """From the full prefill, and along its answer; of itself it has none."""
        same = ready is reference.prefill
        whole = same and after.evicting is None
        return {
            "kl_first": 0.0 if same else kl_divergence(reference.prefill.logits, ready.logits),
            "kl_mean": 0.0 if whole else mean_kl(reference.logits, after.logits),
            "top1_agreement": agreement(after.logits, reference.forced),
        }

    def _full_after(self, reference: Reference) -> After:
        """The full prefill's own answer."""
        kv_bytes = store.kv_bytes(self.engine.modules, reference.prefill.length)
        tokens, generated = reference.tokens, len(reference.forced)
        return After(reference.logits, kv_bytes, reference.tpot_ms, None, tokens, generated)

    def _whole_after(self, ready: Prefill, reference: Reference, name: str) -> After:
        """An answer over all rows.

        In float32 it goes on from where it leaves the full prefill's: up to there it was already
        followed, token by token. In half precision many rows at once round otherwise than few,
        enough to flip a near tie.
        """
        tpot = self._tpot(ready) if self.config.cold else None
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

    def _dropping_after(
        self, policy: BasePolicy, prefill: Prefill, reference: Reference, name: str
    ) -> After:
        """An answer over the rows that a policy leaves. Each pass over them has a copy of its own:

        what a token lets go is gone for whatever else would begin there.
        """
        engine, tokens = self.engine, self.max_new_tokens
        n_layers = len(engine.modules.layers)
        own = engine.together.admits(most_kept(policy, prefill.length, n_layers) + tokens)
        with self.ledger.charge("decode"):
            evicting = engine.evict(prefill, policy, tokens)
            kv_bytes, step_ms = evicting.cache.bytes, None
            if self.config.cold:
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

    def follow_dropping(self, policy: BasePolicy, prefill: Prefill, reference: Reference) -> None:
        """A policy once, to be thrown away: what it calls is warm then."""
        evicting = self.engine.evict(prefill, policy, self.max_new_tokens)
        leaving.follow(evicting, prefill, reference.forced)
        self.engine.together.give_back(evicting.buffer)

    def _tpot(self, prefill: Prefill) -> float | None:
        """Milliseconds of a token decoded alone, the mean over a few."""
        with self.ledger.charge("decode"):
            length = min(1 + TPOT_STEPS, self.max_new_tokens)
            steps = self.engine.decode(prefill, length, self.stops).step_ms
        return sum(steps) / len(steps) if steps else None

    def _score(self, item: Item, tokens: list[int]) -> tuple[str, float | None]:
        text = str(self.session.tokenizer.decode(tokens, skip_special_tokens=True))
        return text, self._measure(self.dataset.metric, item, text)

    def _extra_scores(self, item: Item, text: str) -> dict[str, float | None]:
        return {name: self._measure(name, item, text) for name in self.dataset.extra_metrics}

    def _measure(self, metric: str | None, item: Item, text: str) -> float | None:
        return score(
            metric,
            text,
            item.answers,
            language=self.dataset.language,
            first_line=self.dataset.first_line,
            all_classes=item.row["all_classes"],
        )


def _forced(tokens: list[int], stop: int | None) -> list[int]:
    """An answer with the stop token that ended it."""
    return tokens if stop is None else [*tokens, stop]


def _name(item: Item, method: str) -> str:
    return f"item {item.id}, {method}"


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the item and the method in front of what a refusal says."""
    try:
        yield
    except NoAnswer:  # it says whose it is
        raise
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _require_finite(value: Any, name: str = "") -> None:
    """Refuse a record with a figure that is NaN or infinite, wherever it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_finite(inner, key)
    elif isinstance(value, list):
        for inner in value:
            _require_finite(inner, name)
    elif isinstance(value, float):
        require_finite(value, f"the figures of {name}")


def _seed(seed: int, item_id: str) -> int:
    """A generator seed that differs by item and repeats with the run's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:7], "big")


def _digest(positions: Tensor) -> str:
    """16 hex over the recomputed positions: equal selections, equal digests."""
    return hashlib.sha256(positions.cpu().numpy().tobytes()).hexdigest()[:16]


def _bits(positions: Tensor, prompt: Prompt) -> str:
    """Base64 of one bit for each document position, little-endian: set where it was recomputed."""
    first, end = prompt.documents
    chosen = positions.cpu().numpy()
    mask = np.zeros(end - first, dtype=bool)
    mask[chosen[(chosen >= first) & (chosen < end)] - first] = True
    return base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode()
