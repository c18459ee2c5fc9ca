"""One item: its full prefill once, then each method on the same tokens, kernels and cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from data.inputs import Item
from eval.config import EvalConfig
from eval.item import recording
from eval.item.answering import Answering
from eval.item.naming import name_of, named
from eval.item.pending import Pending
from eval.item.reference import Reference
from eval.item.source import sources
from eval.metrics.decisions import same_decision
from eval.metrics.scores import score
from eval.variants import Variant
from models.codecs import BaseCodec
from models.engine import Engine, Prefill
from models.flops import flop_limit
from models.timing import Stopwatch
from stage.ledger import Ledger
from stage.session import Session, Stored


class Evaluator:
    """Runs items of one dataset; knows the metric, the answer's length and where KVs lie.

    Attributes
    ----------
    through : a codec that KVs in memory went through, where it is not the one they lie under.
    """

    def __init__(self, session: Session, config: EvalConfig, variants: Sequence[Variant]) -> None:
        self.session = session
        self.dataset = dataset = session.dataset
        self.config = config
        self.variants = variants
        self.max_new_tokens = config.max_new_tokens or dataset.max_new_tokens
        self.observes = config.deviation or any(variant.oracle for variant in variants)
        self.sources = sources(session, variants)
        self.through: BaseCodec | None = None
        self.ledger = Ledger()
        self.answering = Answering(session, self.ledger, self.max_new_tokens, config.cold)

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
        name = name_of(item, "full prefill")
        with named(name):
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
            tpot = self.answering.tpot(prefill)
            answer = self.answering.known(item, prefill)
        kept = answer is not None
        if answer is None:
            answer = self.answering.decoded(item, prefill, name)
        tokens, forced, logits = answer
        with named(name):
            text, points = self._score(item, tokens)
        return Reference(
            prefill, text, points, tokens, forced, logits, tpot, truth, stored, load_ms, kept
        )

    def _load(self, item: Item, stored: Stored, needs: Sequence[str]) -> float:
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
        return watch.parts["load"] + watch.parts["decode_kv"]

    def fuse(
        self, item: Item, variant: Variant, reference: Reference
    ) -> tuple[Prefill | None, Prefill, bool | None]:
        """Cold, then cache-ready; and whether the page cache was dropped before the cold one.

        There is no cold run where the load is shared.

        Raises
        ------
        UserError : the method failed here; names item and method.
        """
        with named(name_of(item, f"method {variant.spec}")):
            return self._fuse(item, variant, reference)

    def _fuse(
        self, item: Item, variant: Variant, reference: Reference
    ) -> tuple[Prefill | None, Prefill, bool | None]:
        selector, where = variant.selector, variant.where
        assert selector is not None
        assert where is not None
        source, stored = self.sources[where], reference.stored[where]

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
                source.session.headers(item, self.through),
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
        name = name_of(item, f"method {variant.spec}")
        with named(name):
            if variant.selector is None:
                measured, ready = self._full(reference), reference.prefill
            else:
                measured, ready = self._fused(item, variant, reference)
            if variant.policy:
                after = self.answering.dropping(variant.policy, ready, reference, name)
            elif variant.selector is None:
                after = self.answering.full(reference)
            else:
                after = self.answering.whole(ready, reference, name)
            with self.ledger.charge("score"):
                measured |= recording.distances(reference, ready, after)
            record = recording.described(item, variant, reference, measured, ready)
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
        with self.ledger.charge("score"), named(name_of(item, f"method {pending.variant.spec}")):
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
            recording.check_finite(record)
        return record

    def advance(self, to_the_end: bool = False) -> None:
        """Take waiting answers further while enough of them wait, or complete them all."""
        with self.ledger.charge("decode"):
            if to_the_end:
                self.engine.together.finish()
            else:
                self.engine.together.advance()

    def _full(self, reference: Reference) -> dict[str, Any]:
        """The full prefill as its own method: its speed-up is 1 by construction."""
        prefill = reference.prefill
        delta = [0.0] * len(self.engine.modules.layers) if self.config.deviation else None
        found = recording.times(prefill if self.config.cold else None, prefill, None, 1.0)
        return {"delta_kv": delta, "delta_attn": delta, **found}

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
        limit = flop_limit(self.engine.modules, len(item.prompt), ready.passes)
        assert variant.where is not None, "a method reads from somewhere"
        stream = reference.stored[variant.where].stream
        reading = stream.reading if cold and stream else None
        found = recording.times(cold, ready, dropped, limit, timed, reading)
        return {"delta_kv": delta_kv, "delta_attn": delta_attn, **found}, ready

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


def _seed(seed: int, item_id: str) -> int:
    """A generator seed that differs by item and repeats with the run's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:7], "big")
