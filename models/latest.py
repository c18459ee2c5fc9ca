"""One model and one cache, and whose states the cache holds: those of its latest prefill."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from models import tuning
from models.flight import Flight
from models.kv.cache import FusedCache
from models.modules import Modules
from models.prefill import Prefill
from models.prompt import Prompt


class Latest:
    """A cache that a prefill fills and answers go on from.

    Parameters
    ----------
    fast : switches of :mod:`models.tuning` that are on.
    """

    def __init__(self, model: Any, backend: str = "auto", fast: Collection[str] = ()) -> None:
        self.fast = tuning.check(fast)
        self.modules = Modules(model, backend)
        self.modules.plans = "plan" in self.fast
        self.modules.tile = tuning.TILE if "tiles" in self.fast else 1
        self.device = self.modules.device
        self.backend = self.modules.backend
        self.cache = FusedCache(self.modules.cache_shape, self.device, self.modules.dtype)
        self.observes = 0  # so many of a prompt's last queries are kept, for policies
        self.watches = False  # keeps the question's queries of fused prefills, for deviations
        self._latest: Prefill | None = None  # whose states the cache holds
        self._behind: list[int] = []  # tokens whose rows lie behind its prompt

    def _flight(
        self,
        ids: Tensor,
        positions: Tensor,
        n_keys: int,
        rotary: tuple[Tensor, Tensor],
        watched: int = 0,
    ) -> Flight:
        return Flight(
            self.modules, self.cache, ids, positions, n_keys, rotary, self.backend, watched
        )

    def _rotary(self, n: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(n, device=self.device)[None]
        return self.modules.rotary(self.modules.embed.weight, positions)

    def _begin(self, prompt: Prompt) -> None:
        """Forget the latest prefill and make room for another."""
        self._latest, self._behind = None, []
        self.cache.clear()
        self.cache.reserve(len(prompt))

    def _require_latest(self, prefill: Prefill) -> None:
        if prefill is not self._latest:
            raise ValueError("this prefill is not the latest: the cache holds another one by now")

    def _require_prompt(self, prompt: Prompt, full: bool) -> None:
        held = self._latest
        if held is None or held.prompt != prompt or (full and not held.full):
            kind = "full" if full else "latest"
            raise ValueError(f"the cache does not hold the {kind} prefill of this prompt")
