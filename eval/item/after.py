"""What comes after a method's first token: its own answer, and what a token of it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.decoding.answers import Answer
from models.decoding.evicting import Evicting


@dataclass
class After:
    """One item's way under one method, from the first token on.

    Attributes
    ----------
    logits : ``[len(forced), vocabulary]`` along the full prefill's answer, which they follow.
    kv_bytes : of the rows that the answer's first step finds in the cache.
    step_ms : milliseconds of a token decoded alone, evictions left out; None where not measured.
    answer : in the making beside others; ``tokens`` where it is known already, with ``generated``,
        how many tokens it took, the one that stopped it included.
    evicting : what let rows go on the way to it.
    at_once : the answer must be complete before the next prefill.
    """

    logits: Tensor
    kv_bytes: int
    step_ms: float | None
    answer: Answer | None
    tokens: list[int]
    generated: int
    evicting: Evicting | None = None
    at_once: bool = False

    @property
    def done(self) -> bool:
        return self.answer is None or self.answer.done

    def found(self) -> list[int]:
        """The answer, once it is complete."""
        return self.answer.tokens if self.answer else self.tokens

    def times(self, timed: bool) -> dict[str, Any]:
        """Times of a record, once the answer is complete; an oracle (not ``timed``) has none.

        TPOT is what a token after the first takes: a step, and its share of all evictions on the
        way to the answer, the one after the first token included.
        """
        steps = self.generated
        if self.answer:
            steps = len(self.answer.tokens) + (self.answer.stop_token is not None)
        evict_ms = self.evicting.ms if self.evicting else 0.0
        parts = None
        if timed and self.step_ms is not None:
            parts = {"step": self.step_ms, "evict": evict_ms / max(1, steps - 1)}
        return {
            "tpot_ms": sum(parts.values()) if parts else None,
            "tpot_parts_ms": parts,
            "evict_ms": evict_ms if timed else None,
            "evictions": self.evicting.count if self.evicting else 0,
            "kv_bytes": self.kv_bytes,
        }
