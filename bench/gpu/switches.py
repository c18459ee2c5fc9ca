"""Each switch of the engine by itself: what it takes from a TTFT and from a token, and its gate."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from bench.gpu import random_models
from bench.gpu.config import GpuCheckConfig
from bench.gpu.prefill import streamed
from bench.rounds import interleave
from models import gate
from models.engine import Engine
from models.kv.capture import capture
from models.selectors import make
from models.tuning import SWITCHES, ahead

SINK = [1]
METHOD = "random"
DECODED = 17
COMPILE = "compile"
GATE_TOKENS = 1000


def measure(model: Any, config: GpuCheckConfig, n: int) -> Iterator[list[dict[str, Any]]]:
    """A row for everything off, one for each switch alone, and one for all of them.

    ``compile`` comes last: it changes the model's own modules for good.
    """
    alone = [(name, [name]) for name in sorted(SWITCHES, key=COMPILE.__eq__)]
    plain = None
    for name, fast in [("none", []), *alone, ("all", list(SWITCHES))]:
        row = _measured(Engine(model, config.backend, fast), config, n)
        plain = plain or row
        for what in ("full_ms", "fused_ms", "decode_ms"):
            row[f"{what}_of_plain"] = row[what] / plain[what]
        yield [{"n": n, "switch": name, **row}]


def _measured(engine: Engine, config: GpuCheckConfig, n: int) -> dict[str, Any]:
    modules = engine.modules
    prompt = random_models.random_prompt(n, config.chunk_size, modules.config.vocab_size)
    kv = capture(modules, prompt, SINK).kv
    host = torch.empty_like(kv, device="cpu", pin_memory=engine.device.type == "cuda").copy_(kv)
    del kv
    read = streamed(host, ahead(engine.fast))
    engine.cache.reserve(n + DECODED)

    def fused() -> float:
        generator = torch.Generator().manual_seed(0)
        return engine.fused_prefill(prompt, read, make(METHOD), config.rate, generator).ttft_ms

    def decode() -> float:
        steps = engine.decode(engine.full_prefill(prompt), DECODED, ()).step_ms
        return median(steps[1:])

    contestants = {"full": lambda: engine.full_prefill(prompt).ttft_ms, "fused": fused}
    timed = interleave({**contestants, "decode": decode}, config.rounds, engine.device, f"{n}")
    return {f"{name}_ms": found.median for name, found in timed.items()}


def gates(
    device: torch.device, dtype: torch.dtype, head_dim: int, backend: str
) -> list[dict[str, Any]]:
    """The gate of a small model under each switch, and under all."""
    found = []
    for name, fast in [*((name, [name]) for name in SWITCHES), ("all", list(SWITCHES))]:
        config = random_models.small("llama", head_dim)
        engine = Engine(random_models.build(config, device, dtype), backend, fast)
        prompt = random_models.random_prompt(GATE_TOKENS, 300, config.vocab_size)
        outcome = gate.run(engine, prompt, SINK).as_dict()
        found.append({"model": f"llama, switch {name}", "backend": engine.backend, **outcome})
    return found
