"""TTFT of every method beside our own full prefill, with KVs on the device and in host memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.gpu import random_models
from bench.gpu.config import GpuCheckConfig
from bench.rounds import interleave
from models import gate
from models.engine import Engine, Prefill
from models.kv.capture import capture
from models.kv.transfer import LayerStream
from models.prompt import Prompt
from models.selectors import FULL_PREFILL
from models.timing import Stopwatch
from models.tuning import ahead

SINK = [1]
DECODED_TOKENS = 33
SOURCES = ("device", "host")


def streamed(source: Tensor, ahead: int | None) -> Callable[[Stopwatch, Tensor], LayerStream]:
    """A reader that brings KVs from host memory layer by layer, beside the computation.

    Their copies are asked for so many layers ahead, or all at once.
    """

    def read(watch: Stopwatch, target: Tensor) -> LayerStream:
        stream = LayerStream(source, target, ahead=ahead).start()
        watch.lap("transfer")
        return stream

    return read


def measure(engine: Engine, config: GpuCheckConfig, n: int) -> list[dict[str, Any]]:
    """TTFT of every method beside our own full prefill, KVs on the device and in host memory."""
    prompt = random_models.random_prompt(n, config.chunk_size, engine.modules.config.vocab_size)
    selectors = {method.spec: method.selector() for method in config.methods_at(n)}
    needed = sorted({name for selector in selectors.values() for name in selector.needs})
    captured = capture(engine.modules, prompt, SINK, needed)
    kv = captured.kv
    engine.cache.reserve(n + DECODED_TOKENS)
    host = torch.empty_like(kv, device="cpu", pin_memory=engine.device.type == "cuda").copy_(kv)
    host_kv = streamed(host, ahead(engine.fast))
    readers: Mapping[str, Any] = dict(zip(SOURCES, (gate.reader(kv), host_kv), strict=True))
    taken: dict[str, list[Prefill]] = {}

    def ttft_ms(name: str, run_one: Callable[[], Prefill]) -> float:
        result = run_one()
        taken.setdefault(name, []).append(result)
        return result.ttft_ms

    def fused(method: str, source: str) -> Prefill:
        generator, scores = torch.Generator().manual_seed(0), captured.scores.__getitem__
        return engine.fused_prefill(
            prompt, readers[source], selectors[method], config.rate, generator, scores
        )

    full = f"{FULL_PREFILL} -"
    runs: dict[str, Callable[[], Prefill]] = {full: lambda: engine.full_prefill(prompt)}
    for method, source in product(selectors, readers):
        runs[f"{method} {source}"] = partial(fused, method, source)
    contestants = {name: partial(ttft_ms, name, one) for name, one in runs.items()}
    timed = interleave(contestants, config.rounds, engine.device, f"prefill {n}")
    rows = []
    for method, source in [(FULL_PREFILL, "-"), *product(selectors, readers)]:
        name = f"{method} {source}"
        results = taken[name][-config.rounds :]
        rows.append(
            {
                "n": n,
                "method": method,
                "kv": source,
                "rows": len(results[-1].recomputed),
                "ms": timed[name].median,
                "ms_spread": timed[name].spread,
                "speedup": timed[full].median / timed[name].median,
                "peak_mb": timed[name].peak_mb,
                "parts_ms": {
                    part: median(result.parts_ms[part] for result in results)
                    for part in results[-1].parts_ms
                },
                "agrees": _agree(taken, method),
            }
        )
    rows[0]["decode_ms"] = decode_ms(engine, prompt)
    return rows


def _agree(taken: Mapping[str, list[Prefill]], method: str) -> bool:
    """Whether KVs from either place led to the same logits, but for rounding."""
    if method == FULL_PREFILL:
        return True
    one, other = (taken[f"{method} {source}"][-1].logits for source in SOURCES)
    return bool((one - other).abs().max() <= 2e-2 * one.abs().max())


def decode_ms(engine: Engine, prompt: Prompt) -> float:
    """Median milliseconds of a token after a full prefill."""
    decoded = engine.decode(engine.full_prefill(prompt), DECODED_TOKENS, ())
    return median(decoded.step_ms)
