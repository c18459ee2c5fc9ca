"""One layer's attention by itself: whole prompts, and scattered rows by each back end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.gpu import random_models
from bench.gpu.config import GpuCheckConfig
from bench.prompts import QUESTION_TOKENS
from bench.rounds import interleave
from models.attention.registry import choose_backend, rows_for
from models.timing import synchronize

LAYERS_AT_ONCE = 16


def measure(
    device: torch.device, dtype: torch.dtype, config: GpuCheckConfig, n: int
) -> list[dict[str, Any]]:
    """Milliseconds of one layer's attention, and of building the rows and a first layer."""
    n_heads, n_kv_heads, head_dim = random_models.heads(config.shape)
    generator = torch.Generator().manual_seed(n)
    question = torch.arange(n - QUESTION_TOKENS, n)
    chosen = torch.randperm(int(question[0]), generator=generator)[: int(n * config.rate)]
    rows = torch.cat([chosen.sort().values, question]).to(device)
    key, value = torch.randn(2, 1, n_kv_heads, n, head_dim, device=device).to(dtype)
    queries = torch.randn(1, n, n_heads, head_dim, device=device).to(dtype).transpose(1, 2)
    backends = (
        config.backends if device.type == "cuda" else [choose_backend(device, dtype, head_dim)]
    )
    kinds = {"causal": (backends[0], torch.arange(n, device=device))}
    kinds |= {backend: (backend, rows) for backend in backends}

    def elapsed(kind: str, layers: int, built: bool) -> float:
        """Milliseconds a layer; the rows are built before the clock starts, or after."""
        backend, positions = kinds[kind]
        query = queries[:, :, : len(positions)]
        prepared = None
        if built:
            prepared = rows_for(backend, positions, n)
            prepared.attend(query, key, value, head_dim**-0.5)
        synchronize(device)
        start = time.perf_counter()
        prepared = prepared or rows_for(backend, positions, n)
        for _ in range(layers):
            prepared.attend(query, key, value, head_dim**-0.5)
        synchronize(device)
        return (time.perf_counter() - start) * 1e3 / layers

    contestants: dict[str, Callable[[], float]] = {}
    for kind in kinds:
        contestants[kind] = partial(elapsed, kind, LAYERS_AT_ONCE, built=True)
        contestants[f"{kind}, first"] = partial(elapsed, kind, 1, built=False)
    timed = interleave(contestants, config.rounds, device, f"attention {n}")
    return [
        {
            "n": n,
            "attention": kind,
            "rows": len(positions),
            "layer_ms": timed[kind].median,
            "first_ms": timed[f"{kind}, first"].median,
        }
        for kind, (_, positions) in kinds.items()
    ]
