"""What this GPU reaches by others' hands: a product, copies, the library's prefills.

Every figure of ours stands beside its limit: no prefill is faster than its products at the rate of
one large product, and no KVs come in faster than one large copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from bench.gpu import random_models
from bench.gpu.config import GpuCheckConfig
from bench.library import Library
from bench.rounds import interleave
from models.attention.registry import rows_for
from models.engine import Engine
from models.timing import synchronize
from models.tuning import TILE

SIDE = 8192
COPIED_BYTES = 1 << 30
REPEATS = 10


def elapsed_ms(device: torch.device, run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Milliseconds of one call, of several asked for at once after one that is thrown away."""
    run()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3 / repeats


def machine(device: torch.device, dtype: torch.dtype, side: int, size: int) -> list[dict[str, Any]]:
    """One product of ``side``³, and copies of ``size`` bytes within the device and into it."""
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    product = elapsed_ms(device, lambda: left @ right)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    within = elapsed_ms(device, lambda: target.copy_(source))
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    into = elapsed_ms(device, lambda: target.copy_(host, non_blocking=True))
    return [
        _row(f"product {side} x {side} x {side}", product, 2 * side**3 / product / 1e9, "TFLOP/s"),
        # read once and written once
        _row("copy within the device", within, 2 * size / within / 1e6, "GB/s"),
        _row("copy from pinned memory", into, size / into / 1e6, "GB/s"),
    ]


def prefills(engine: Engine, config: GpuCheckConfig, n: int) -> list[dict[str, Any]]:
    """Full prefills of ``n`` tokens: ours, transformers' by SDPA and FlashAttention.

    Beside them the causal attention of all layers alone, by our back end's kernel, and one layer's
    products over the rows of a fused prefill. A prefill's rate
    counts the layers' products only, neither attention nor the LM head.
    """
    modules, device = engine.modules, engine.device
    prompt = random_models.random_prompt(n, config.chunk_size, modules.config.vocab_size)
    contestants: dict[str, Callable[[], float]] = {
        "our full prefill": lambda: engine.full_prefill(prompt).ttft_ms
    }
    attentions = {"sdpa": "transformers, SDPA"}
    if find_spec("flash_attn"):
        attentions["flash_attention_2"] = "transformers, FlashAttention"
    for name, label in attentions.items():
        library = Library(modules.model, device, name)
        contestants[label] = partial(library.forward_ms, [prompt.ids], head=True)
    contestants["causal attention alone"] = lambda: _attention_ms(engine, n)
    timed = interleave(contestants, config.rounds, device, f"yardsticks {n}")
    flops = 2 * n * sum(p.numel() for layer in modules.layers for p in layer.parameters())
    rows = [
        _row(name, found.median, flops / found.median / 1e9, "TFLOP/s")
        if "prefill" in name or name.startswith("transformers")
        else _row(name, found.median, None, "")
        for name, found in timed.items()
    ]
    chosen = prompt.budget(config.rate) + prompt.question[1] - prompt.question[0]
    return [{"n": n, **row} for row in [*rows, *products(engine, chosen)]]


def products(engine: Engine, rows: int) -> list[dict[str, Any]]:
    """A layer's linear layers over a fused prefill's rows, and over the whole tiles next to them.

    Where a few rows more take much longer, tiles begin another wave: what ``FAST=tiles`` cuts off.
    """
    modules, found = engine.modules, []
    linear = [part for part in modules.layers[0].modules() if isinstance(part, torch.nn.Linear)]
    weights = sum(part.weight.numel() for part in linear)
    below = rows // TILE * TILE
    for count in sorted({below, rows, below + TILE} - {0}):
        states = {
            width: torch.randn(count, width, device=engine.device).to(modules.dtype)
            for width in {part.in_features for part in linear}
        }
        ms = elapsed_ms(engine.device, partial(_apply, linear, states))
        rate = 2 * count * weights / ms / 1e9
        found.append(_row(f"a layer's products, {count} rows", ms, rate, "TFLOP/s"))
    return found


@torch.inference_mode()
def _apply(linear: Sequence[torch.nn.Linear], states: Mapping[int, torch.Tensor]) -> None:
    for part in linear:
        part(states[part.in_features])


def _attention_ms(engine: Engine, n: int) -> float:
    """Milliseconds of all layers' causal attention over random states."""
    modules, device = engine.modules, engine.device
    shape = 1, modules.n_kv_heads, n, modules.head_dim
    key, value = torch.randn(2, *shape, device=device).to(modules.dtype)
    query = torch.randn(1, n, modules.n_heads, modules.head_dim, device=device).to(modules.dtype)
    rows = rows_for(engine.backend, torch.arange(n, device=device), n)
    layers = len(modules.layers)
    once = elapsed_ms(
        device, lambda: rows.attend(query.transpose(1, 2), key, value, modules.scale), layers
    )
    return once * layers


def _row(name: str, ms: float, rate: float | None, unit: str) -> dict[str, Any]:
    return {"yardstick": name, "ms": ms, "rate": rate, "unit": unit}
