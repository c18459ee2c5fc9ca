"""The gates that a model must pass before any figure of it is reported.

1. ``r = 1`` ≡ full prefill. 2. One chunk, any ``r`` ≡ full prefill. 3. ``r = 0`` ≡ full reuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from models.engine import Engine, Prefill
from models.kv.capture import Captured, capture
from models.prompt import Prompt
from models.selectors import make
from models.timing import Stopwatch

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.25}
MAX_TOKENS = 1024
ANSWER_TOKENS = 8
METHODS = ("random", "debug", "blend")
RATES = (0.0, 0.15, 0.5)


@dataclass(frozen=True)
class Check:
    """One gate: the largest distance of logits found, and whether greedy answers were equal."""

    name: str
    distance: float
    tokens_equal: bool
    passed: bool


@dataclass(frozen=True)
class Gate:
    """All gates of one model on one item. ``tolerance`` is in logits, by dtype."""

    tokens: int
    tolerance: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {"passed": self.passed, **asdict(self)}


def run(engine: Engine, prompt: Prompt, sink: Sequence[int]) -> Gate:
    """Run gates 1 to 3 on one item, cut to ``MAX_TOKENS`` tokens of documents.

    Parameters
    ----------
    sink : tokens put in front of a chunk that is captured alone.
    """
    prompt = _shorten(prompt)
    merged = Prompt.join(
        [], [prompt.ids[: prompt.question[0]]], prompt.ids[slice(*prompt.question)]
    )
    tolerance = TOLERANCE[engine.modules.dtype]
    engine.cache.reserve(len(prompt) + ANSWER_TOKENS)

    def fuse(item: Prompt, captured: Captured, method: str, rate: float) -> Prefill:
        selector = make(method, check_layer=1)
        generator = torch.Generator().manual_seed(0)
        return engine.fused_prefill(item, reader(captured.kv), selector, rate, generator)

    def answer(prefill: Prefill) -> list[int]:
        return engine.decode(prefill, ANSWER_TOKENS, ()).tokens

    def check(name: str, reference: tuple[Tensor, list[int]], runs: list[Any]) -> Check:
        logits, tokens = reference
        distance, equal = 0.0, True
        for item, captured, method, rate in runs:
            fused = fuse(item, captured, method, rate)
            distance = max(distance, float((fused.logits - logits).abs().max()))
            equal &= answer(fused) == tokens
        exact = engine.modules.dtype == torch.float32
        return Check(name, distance, equal, distance <= tolerance and (equal or not exact))

    parts = capture(engine.modules, prompt, sink)
    whole = capture(engine.modules, merged, sink)
    prefill = engine.full_prefill(prompt)
    full = prefill.logits, answer(prefill)
    prefill = fuse(prompt, parts, "full", 0.0)
    reuse = prefill.logits, answer(prefill)
    checks = (
        check("r = 1 equals full prefill", full, [(prompt, parts, m, 1.0) for m in METHODS]),
        check(
            "one chunk, any r equals full prefill",
            full,
            [(merged, whole, m, r) for m in METHODS for r in RATES],
        ),
        check("r = 0 equals full reuse", reuse, [(prompt, parts, m, 0.0) for m in METHODS]),
    )
    return Gate(len(prompt), tolerance, checks)


def reader(kv: Tensor) -> Callable[[Stopwatch, Tensor], None]:
    """A reader for :meth:`Engine.fused_prefill` that copies from ``kv`` in memory."""

    def read(watch: Stopwatch, target: Tensor) -> None:
        target.copy_(kv)
        watch.lap("transfer")

    return read


def _shorten(prompt: Prompt) -> Prompt:
    """Keep at least two chunks, cut so that all documents have at most ``MAX_TOKENS`` tokens."""
    segments = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    room, chunks = MAX_TOKENS, []
    share = max(1, MAX_TOKENS // 2)
    for chunk in segments[1:-1]:
        if room <= 0:
            break
        chunks.append(chunk[: min(room, share)])
        room -= len(chunks[-1])
    return Prompt.join(segments[0], chunks, segments[-1])
