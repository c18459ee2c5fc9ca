"""What an evaluation is asked to do, and the part of it that names a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any

from models import selectors
from models.errors import UserError
from stage.options import option
from stage.session import ModelConfig


@dataclass(frozen=True)
class Variant:
    """One way to prefill that is measured: a selector with its options at one rate.

    Attributes
    ----------
    spec : the method as tables name it, ``no`` for the full prefill.
    selector : None for the full prefill.
    rate : None for a method that does not know one.
    """

    spec: str
    selector: selectors.BaseSelector | None
    rate: float | None

    @property
    def oracle(self) -> bool:
        """Whether it is an upper bound instead of a method."""
        return self.selector is not None and self.selector.oracle

    @property
    def options(self) -> dict[str, Any]:
        """The options that change the result, and no others."""
        chosen = self.selector.identity() if self.selector else {}
        return chosen if self.rate is None else {"rate": self.rate, **chosen}


@dataclass
class SelectorOptions:
    """Options of the selectors, for every method of ``REUSE`` that has them; None: its default."""

    check_layer: int | None = option(None, "layer at which debug and blend score (1)")
    check: str | None = option(None, "debug: dense, or cached to score against cached keys (dense)")
    per_head: bool = option(False, "debug: a softmax of each head by itself")
    edge_corrected: bool = option(False, "debug: pool over the neighbours that exist only")
    blend_gap_source: str | None = option(None, "blend: compare v (values) or k (post-RoPE keys)")
    filter_layers: int | None = option(None, "blend: layers over which the choice narrows (1)")
    fusion: str | None = option(None, "blend_debug: mul, sum or rank (mul)")
    alpha: float | None = option(None, "blend_debug: weight of the deviation (0.5)")
    normalize: str | None = option(None, "blend_debug: minmax or rank (minmax)")
    lego_k: int | None = option(None, "epic: tokens of each chunk, instead of the rate's share")
    positions: str | None = option(None, "attnlink: JSON file of positions by item id")
    pool: int | None = option(None, "prophet: neighbours to average over (1: off)")

    def given(self) -> dict[str, Any]:
        """The options that were named."""
        named = {f.name: getattr(self, f.name) for f in fields(SelectorOptions)}
        # Compared by identity: 0 equals False, and is a value that a user may have named.
        return {name: v for name, v in named.items() if v is not None and v is not False}


@dataclass
class MethodsConfig(SelectorOptions, ModelConfig, ABC):
    """What every evaluation has: methods, answers, a seed."""

    reuse: list[str] = option(["debug"], "methods, with options of their own as debug:check=cached")
    max_new_tokens: int | None = option(None, "answer length; as the benchmark says by default")
    seed: int = option(0, "seed of the random control and of the bootstrap")
    deviation: bool = option(False, "measure the distance of KVs and attention layer by layer")
    check_options: bool = option(False, "only check these options, before a long stage 2")
    fresh: bool = option(False, "throw earlier results of these runs away and start over")
    variants: list[Variant] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reuse = [name for entry in self.reuse for name in entry.replace(",", " ").split()]
        if not self.reuse:
            raise UserError("REUSE names no method; try REUSE=debug")
        if self.check_layer is not None and self.check_layer < 0:
            raise UserError(f"CHECK_LAYER={self.check_layer} must be at least 0")
        if self.seed < 0:
            raise UserError(f"SEED={self.seed} must be at least 0")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"MAX_NEW_TOKENS={self.max_new_tokens} must be at least 1")
        for rate in self.rates:
            if not (math.isfinite(rate) and 0 <= rate <= 1):
                raise UserError(f"RATE={rate} is outside [0, 1]")
        self.variants = self._variants()
        self._check_given()

    @property
    @abstractmethod
    def rates(self) -> list[float]:
        """The rates asked for."""

    @property
    def cold(self) -> bool:
        """Whether every method reads the KVs from disk by itself, or shares one load per item."""
        return True

    def _variants(self) -> list[Variant]:
        found: dict[tuple[str, float | None], Variant] = {}
        for name in self.reuse:
            if name == selectors.FULL_PREFILL:
                found[name, None] = Variant(name, None, None)
                continue
            selector = selectors.build(name, **self.given())
            spec = selectors.spec_of(selector)
            if selector.identity().get("check_layer", 0) < 0:
                raise UserError(f"REUSE={spec}: check_layer must be at least 0")
            for rate in sorted(set(self.rates)) if selector.knows_rate else [None]:
                found.setdefault((spec, rate), Variant(spec, selector, rate))
        return list(found.values())

    def _check_given(self) -> None:
        """Refuse an option that no chosen method has: it would change nothing."""
        known = {key for v in self.variants if v.selector for key in v.selector.identity()}
        for name in self.given():
            if name not in known:
                methods = " ".join(self.reuse)
                raise UserError(f"{name.upper()}= is an option of none of REUSE={methods!r}")


@dataclass
class EvalConfig(MethodsConfig):
    """Answer every question with each method and compare it with the full prefill."""

    rate: float = option(0.15, "share of document positions that is recomputed, 0 to 1")

    @property
    def rates(self) -> list[float]:
        return [self.rate]


@dataclass
class SweepConfig(MethodsConfig):
    """Run methods over rates, each item's full prefill and KV load shared by all of them."""

    rate: list[float] = option([0.0, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0], "recompute ratios, 0 to 1")
    deviation: bool = option(True, "measure the distance of KVs and attention layer by layer")

    @property
    def rates(self) -> list[float]:
        return self.rate

    @property
    def cold(self) -> bool:
        return False
