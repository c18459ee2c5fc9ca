"""Prefill, full or fused, and greedy decoding, over one preallocated cache."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from models.decoding.continuing import Continuing
from models.prefill import Prefill
from models.prefilling import Prefilling
from models.prompt import Prompt

__all__ = ["Engine", "Prefill"]

COMPILER = "inductor"
WARM_TOKENS = 48


class Engine(Prefilling, Continuing):
    """One model, one cache, one attention back end, for every method alike.

    Parameters
    ----------
    fast : switches of :mod:`models.tuning` that are on.
    """

    def __init__(self, model: Any, backend: str = "auto", fast: Collection[str] = ()) -> None:
        super().__init__(model, backend, fast)
        if "compile" in self.fast:
            self._compile()

    def _compile(self) -> None:
        """Norms and MLPs as ``torch.compile`` makes them, made here and not inside a clock."""
        for layer in self.modules.layers:
            for part in self.modules.family.dense(layer):
                part.compile(backend=COMPILER, dynamic=True)
        ids = list(range(1, 1 + WARM_TOKENS))
        for count in (WARM_TOKENS, WARM_TOKENS // 2):  # two lengths, then one row: all there are
            prefill = self.full_prefill(Prompt.join([], [ids[: count - 1]], ids[count - 1 : count]))
        self.decode(prefill, 3, ())
