"""One item: its full prefill once, then each method on the same tokens, kernels and cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.inputs import Item
from data.session import Session
from eval.config import EvalConfig
from eval.fidelity import agreement, kl_divergence
from eval.metrics import score
from models import store
from models.engine import Prefill
from models.flops import flop_limit
from models.selectors import FULL_PREFILL

DESCRIBED_BY = ("length", "depth", "context_length", "task")


@dataclass
class Reference:
    """The full prefill of one item and its own greedy answer.

    ``forced`` is the answer with the stop token that ended it: methods are compared along it.
    """

    prefill: Prefill
    text: str
    score: float
    forced: list[int]
    tpot_ms: float | None


class Evaluator:
    """Runs items of one dataset; knows the metric, the answer's length and where KVs lie."""

    def __init__(self, session: Session, config: EvalConfig) -> None:
        self.session = session
        self.engine = session.engine
        self.dataset = dataset = session.dataset
        self.config = config
        self.max_new_tokens = config.max_new_tokens or dataset.max_new_tokens

    def reference(self, item: Item) -> Reference:
        """Full prefill and greedy answer, timed like every method."""
        prefill = self.engine.full_prefill(item.prompt)
        stops = self.session.loaded.stop_ids
        answer = self.engine.decode(prefill, self.max_new_tokens, stops)
        stop = [answer.stop_token] if answer.stop_token is not None else []
        text, points = self._score(item, answer.tokens)
        return Reference(prefill, text, points, answer.tokens + stop, _mean(answer.step_ms))

    def file(self, item: Item) -> store.KVFile:
        """The item's KVs on disk."""
        return store.KVFile(
            self.session.folder(item) / store.KVS,
            self.session.expected(item),
            self.session.precompute_command,
        )

    def fuse(self, item: Item, method: str) -> tuple[Prefill, Prefill, bool]:
        """Cold, then cache-ready; and whether the page cache was dropped before the cold one."""
        selector, file = self.config.selector(method), self.file(item)
        dropped = file.forget()

        def prefill(read: Any) -> Prefill:
            generator = torch.Generator().manual_seed(_seed(self.config.seed, item.id))
            return self.engine.fused_prefill(
                item.prompt, read, selector, self.config.rate, generator
            )

        return prefill(file.cold), prefill(file.ready), dropped

    def record(self, item: Item, method: str, reference: Reference) -> dict[str, Any]:
        """Everything that is kept of one item under one method."""
        if method == FULL_PREFILL:  # the reference itself, so its speed-up is 1 by construction
            cold = ready = reference.prefill
            limit, dropped = 1.0, None
            text, points, tpot = reference.text, reference.score, reference.tpot_ms
            kl, agree = 0.0, 1.0
        else:
            cold, ready, dropped = self.fuse(item, method)
            dense = self.config.selector(method).dense_layers
            limit = flop_limit(self.engine.modules, item.prompt, ready.recomputed, dense)
            kl = kl_divergence(reference.prefill.logits, ready.logits)
            agree = agreement(self.engine.follow(ready, reference.forced), reference.forced)
            answer = self.engine.decode(ready, self.max_new_tokens, self.session.loaded.stop_ids)
            tpot = _mean(answer.step_ms)
            text, points = self._score(item, answer.tokens)
        return {
            "id": item.id,
            **{name: item.row[name] for name in DESCRIBED_BY if name in item.row},
            "tokens": len(item.prompt),
            "question_tokens": item.prompt.question[1] - item.prompt.question[0],
            "chunks": len(item.prompt.chunks),
            "recomputed": len(ready.recomputed),
            "selected_sha256": _digest(ready.recomputed),
            "prediction": text,
            "answers": item.answers,
            "score": points,
            "extra_scores": self._extra_scores(item, text),
            "full_score": reference.score,
            "kl_first": kl,
            "top1_agreement": agree,
            "ttft_ms": {"cold": cold.ttft_ms, "ready": ready.ttft_ms},
            "ttft_parts_ms": cold.parts_ms,
            "ttft_parts_ready_ms": ready.parts_ms,
            "full_prefill_ms": reference.prefill.ttft_ms,
            "tpot_ms": tpot,
            "flop_limit": limit,
            "page_cache_dropped": dropped,
        }

    def _score(self, item: Item, tokens: list[int]) -> tuple[str, float]:
        text = str(self.session.tokenizer.decode(tokens, skip_special_tokens=True))
        return text, self._measure(self.dataset.metric, item, text)

    def _extra_scores(self, item: Item, text: str) -> dict[str, float]:
        return {name: self._measure(name, item, text) for name in self.dataset.extra_metrics}

    def _measure(self, metric: str, item: Item, text: str) -> float:
        return score(
            metric,
            text,
            item.answers,
            language=self.dataset.language,
            first_line=self.dataset.first_line,
            all_classes=item.row["all_classes"],
        )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _seed(seed: int, item_id: str) -> int:
    """A generator seed that differs by item and repeats with the run's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:7], "big")


def _digest(positions: Tensor) -> str:
    """16 hex over the recomputed positions: equal selections, equal digests."""
    return hashlib.sha256(positions.cpu().numpy().tobytes()).hexdigest()[:16]
