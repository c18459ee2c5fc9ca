"""What an evaluation is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.errors import UserError
from stage.config import AUTO, METHOD, PrecomputeConfig
from stage.options import option


@dataclass
class EvalConfig(PrecomputeConfig):
    """Answer every question with each method and compare it with the full prefill.

    ``method_options`` are options of selectors, correctors and policies, for all of ``reuse``,
    ``correct`` and ``drop`` that have them.
    """

    reuse: list[str] = option([METHOD], "methods, each with options of its own after a colon")
    correct: list[str] = option(
        [AUTO],
        "what is done to rows that stay cached: each method's own (auto), none, shift, ridge, "
        "lowrank; or several",
    )
    drop: list[str] = option(
        ["none"], "which rows leave the cache: none (default), streaming, snapkv, ...; or several"
    )
    drop_config: str | None = option(None, "a file of options for DROP, as in config/drop/")
    rate: list[float] = option([0.15], "share of document tokens that is recomputed, 0 to 1 (0.15)")
    max_new_tokens: int | None = option(None, "length of an answer (as the benchmark says)")
    seed: int = option(0, "seed of the random control and of the bootstrap (0)")
    deviation: bool = option(False, "1 measures KVs and attention layer by layer (eval 0, sweep 1)")
    fresh: bool = option(False, "1 throws earlier results of the same run away")
    method_options: dict[str, Any] = field(default_factory=dict)

    cold: ClassVar[bool] = True
    """Whether every method reads the KVs from disk by itself, or all share one load per item."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise UserError(f"SEED={self.seed} must be at least 0")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"MAX_NEW_TOKENS={self.max_new_tokens} must be at least 1")
        for rate in self.rate:
            if not (math.isfinite(rate) and 0 <= rate <= 1):
                raise UserError(f"RATE={rate} is outside [0, 1]")


@dataclass
class SweepConfig(EvalConfig):
    """Run methods over rates, each item's full prefill and KV load shared by all of them."""

    rate: list[float] = option(
        [0.0, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0], "shares of document tokens, 0 to 1"
    )
    deviation: bool = option(True, "0 leaves out the distance of KVs and attention by layer")

    cold: ClassVar[bool] = False
