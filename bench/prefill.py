"""Time to first token at one prompt length: two or three full prefills, and every fused one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.config import Method
from bench.prompts import real_prompt
from bench.rounds import Timed, interleave
from bench.stand import Stand
from models.engine import Prefill
from models.flops import flop_limit
from models.kv import store
from models.kv.capture import capture
from models.load.tokenizer import fingerprint
from models.selectors import BaseSelector


@dataclass
class Case:
    """One method at one rate, and what its runs leave besides their times."""

    spec: str
    rate: float
    selector: BaseSelector
    prefill: Prefill | None = None
    load_ms: list[float] = field(default_factory=list)
    dropped: list[bool | None] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Unique among the cases of one prompt."""
        return f"{self.spec} r={self.rate:g}"

    @property
    def page_cache_dropped(self) -> bool | None:
        """Whether every cold run began with the file out of memory; None where nobody can tell."""
        known = [dropped for dropped in self.dropped if dropped is not None]
        return all(known) if known else None


class PrefillBench:
    """One prompt of ``n`` tokens, its KVs in ``folder``, and everybody who prefills it.

    Parameters
    ----------
    cases : methods and rates to time.
    """

    def __init__(
        self, stand: Stand, n: int, cases: list[tuple[Method, float]], folder: Path
    ) -> None:
        self.stand = stand
        self.engine = stand.engine()
        self.cases = [Case(method.spec, rate, method.selector()) for method, rate in cases]
        self.prompt = real_prompt(stand.tokenizer, n, stand.config.chunk_size)
        modules = self.engine.modules
        meta = store.describe(
            modules,
            self.prompt,
            model=stand.loaded.name,
            weights=stand.loaded.fingerprint,
            tokenizer=fingerprint(stand.tokenizer),
            chunking={"chunk_size": stand.config.chunk_size},
        )
        needed = tuple(sorted({name for case in self.cases for name in case.selector.needs}))
        store.write(folder, capture(modules, self.prompt, stand.sink, scores=needed), meta)
        self.item = store.StoredItem(folder, meta, "make bench")
        self.kv_bytes = store.kv_bytes(modules, n)

    def rows(self) -> list[dict[str, Any]]:
        """A row of ``bench.json`` for every case."""
        contestants: dict[str, Callable[[], float]] = {
            "library": lambda: self.stand.library.forward_ms([self.prompt.ids], head=True),
            "full": lambda: self.engine.full_prefill(self.prompt).ttft_ms,
        }
        for case in self.cases:
            contestants[f"{case.name} cold"] = partial(self.cold, case)
            contestants[f"{case.name} ready"] = partial(self.ready, case)
        llama = self.stand.llama if len(self.prompt) <= self.stand.config.llamacpp_up_to else None
        if llama is not None:  # the last, so that its weights are in nobody's peak memory
            contestants["llama.cpp"] = lambda: llama.prefill_ms(self.prompt.ids)
        # A cold run is its ready twin and a read; the first one leaves the KVs in memory for all.
        warm = [f"{case.name} cold" for case in self.cases[1:]]
        title, config = f"N = {len(self.prompt)}", self.stand.config
        try:
            timed = interleave(contestants, config.rounds, self.stand.device, title, warm)
        finally:
            if llama is not None:
                llama.close()
        return [self._row(case, timed) for case in self.cases]

    def cold(self, case: Case) -> float:
        """TTFT with the KVs on disk, their pages dropped before the clock starts."""
        case.dropped.append(self.item.forget())
        prefill = self._fused(case, self.item.cold)
        case.load_ms.append(prefill.parts_ms["load"])
        return prefill.ttft_ms

    def ready(self, case: Case) -> float:
        """TTFT with the KVs in memory, where the cold run before left them."""
        case.prefill = self._fused(case, self.item.ready)
        return case.prefill.ttft_ms

    def _fused(self, case: Case, read: Any) -> Prefill:
        generator = torch.Generator().manual_seed(0)
        return self.engine.fused_prefill(
            self.prompt, read, case.selector, case.rate, generator, self.item.scores
        )

    def _row(self, case: Case, timed: dict[str, Timed]) -> dict[str, Any]:
        assert case.prefill is not None, "rows are made of what has run"
        full, library = timed["full"], timed["library"]
        ready, cold = timed[f"{case.name} ready"], timed[f"{case.name} cold"]
        llama = timed.get("llama.cpp")
        limit = flop_limit(self.engine.modules, len(self.prompt), case.prefill.passes)
        return {
            "n": len(self.prompt),
            "rate": case.rate,
            "method": case.spec,
            "backend": self.engine.backend,
            "dtype": self.engine.modules.dtype_name,
            "threads": torch.get_num_threads(),
            "ready_ms": ready.median,
            "cold_ms": cold.median,
            "full_ms": full.median,
            "library_full_ms": library.median,
            "speedup_ready": full.median / ready.median,
            "speedup_cold": full.median / cold.median,
            "flop_limit": limit,
            "share_of_limit": full.median / ready.median / limit,
            "peak_mb": ready.peak_mb,
            "ready_ms_spread": ready.spread,
            "cold_ms_spread": cold.spread,
            "full_ms_spread": full.spread,
            "library_full_ms_spread": library.spread,
            "llamacpp_full_ms": llama.median if llama else None,
            "llamacpp_full_ms_spread": llama.spread if llama else None,
            "full_peak_mb": full.peak_mb,
            "library_full_peak_mb": library.peak_mb,
            "load_ms": median(case.load_ms[-self.stand.config.rounds :]),
            "kv_bytes": self.kv_bytes,
            "layers": len(self.engine.modules.layers),
            "page_cache_dropped": case.page_cache_dropped,
        }
