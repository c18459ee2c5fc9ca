"""What an evaluation is asked to do, and the part of it that names a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data.cli import option
from data.session import ModelConfig
from models import selectors
from models.errors import UserError

RATELESS = ("no", "full", "cat")


@dataclass
class EvalConfig(ModelConfig):
    """Answer every question with each method and compare it with the full prefill."""

    reuse: list[str] = option(["debug"], "methods: no, full, cat, random, debug (a3), blend, ...")
    rate: float = option(0.15, "share of document positions that is recomputed, 0 to 1")
    check_layer: int = option(1, "layer at which debug and blend score; the layers below run dense")
    blend_gap_source: str = option("v", "what blend compares: v (values) or k (post-RoPE keys)")
    max_new_tokens: int | None = option(None, "answer length; as the benchmark says by default")
    seed: int = option(0, "seed of the random control and of the bootstrap")
    check_options: bool = option(False, "only check these options, before a long stage 2")
    fresh: bool = option(False, "throw earlier results of these runs away and start over")

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [name for entry in self.reuse for name in entry.replace(",", " ").split()]
        self.reuse = list(dict.fromkeys(selectors.canonical(name) for name in named))
        if not self.reuse:
            raise UserError("REUSE names no method; try REUSE=debug")
        if not (math.isfinite(self.rate) and 0 <= self.rate <= 1):
            raise UserError(f"RATE={self.rate} is outside [0, 1]")
        if self.check_layer < 0:
            raise UserError(f"CHECK_LAYER={self.check_layer} must be at least 0")
        if self.seed < 0:
            raise UserError(f"SEED={self.seed} must be at least 0")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"MAX_NEW_TOKENS={self.max_new_tokens} must be at least 1")

    def options(self, method: str) -> dict[str, object]:
        """The options that change this method's result, and no others."""
        selector = None if method == selectors.FULL_PREFILL else self.selector(method)
        chosen = {} if selector is None else dict(vars(selector))
        return chosen if method in RATELESS else {"rate": self.rate, **chosen}

    def selector(self, method: str) -> selectors.BaseSelector:
        """The selector of a method other than ``no``."""
        return selectors.make(
            method, check_layer=self.check_layer, blend_gap_source=self.blend_gap_source
        )
