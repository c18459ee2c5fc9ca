"""``make gpu-check``: gates, equivalence and speed of the CUDA path, with random weights only.

Run it from the repository root with nothing else on the device: ``python -m bench.gpu_check``. The
first run compiles FlashInfer's kernels, which takes minutes; ``--parts`` runs some of it, and what
was found is on disk after every step. To try the flow without a GPU: ``--device cpu --shape tiny
--tokens 512 --parts gates prefill``.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench import random_models, switches, yardsticks
from bench.gpu_config import PARTS, GpuCheckConfig, require_gpu
from bench.gpu_table import failures, tables
from bench.prompts import QUESTION_TOKENS
from bench.rounds import interleave
from models import gate
from models.atomic import writing
from models.attention import equivalence, kernels
from models.attention.paged import workspace
from models.attention.registry import choose_backend, rows_for
from models.engine import Engine, Prefill
from models.kv.capture import capture
from models.kv.transfer import LayerStream
from models.linear.layers import LIBRARY
from models.prompt import Prompt
from models.selectors import FULL_PREFILL
from models.timing import Stopwatch, synchronize
from stage.environment import machine, revision
from stage.options import command

SINK = [1]
GATE_TOKENS = 1000
LAYERS_AT_ONCE = 16
DECODED_TOKENS = 33
SOURCES = ("device", "host")


def warm(
    device: torch.device, kinds: Collection[tuple[torch.dtype, int]], backends: Sequence[str]
) -> float:
    """Compile what is missing, then call every kernel once, at one small shape; gives the seconds.

    What cannot be compiled or launched ends here, before anything is measured.
    """
    start = time.perf_counter()
    for (dtype, head_dim), backend in product(sorted(kinds, key=str), backends):
        kernels.ready(device, dtype, head_dim, backend)
        equivalence.run(device, [dtype], [head_dim], [1024], [4], [backend])
        synchronize(device)
    return time.perf_counter() - start


def gates(
    device: torch.device, dtypes: Sequence[torch.dtype], head_dims: Sequence[int], backend: str
) -> list[dict[str, Any]]:
    """Gates 1 to 3 on small models of every family."""
    results = []
    for dtype, head_dim, family in product(dtypes, head_dims, random_models.FAMILIES):
        config = random_models.small(family, head_dim)
        engine = Engine(random_models.build(config, device, dtype), backend)
        prompt = random_models.random_prompt(GATE_TOKENS, 300, config.vocab_size)
        result = gate.run(engine, prompt, SINK)
        name = f"{family} {engine.modules.dtype_name} {head_dim}"
        results.append({"model": name, "backend": engine.backend, **result.as_dict()})
    return results


def attention(
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


def streamed(source: Tensor) -> Callable[[Stopwatch, Tensor], LayerStream]:
    """A reader that brings KVs from host memory layer by layer, beside the computation."""

    def read(watch: Stopwatch, target: Tensor) -> LayerStream:
        stream = LayerStream(source, target).start()
        watch.lap("transfer")
        return stream

    return read


def release(device: torch.device) -> None:
    """Let go of what is left on the device, or it would sit in the peak of whatever comes next."""
    workspace.cache_clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def prefill(engine: Engine, config: GpuCheckConfig, n: int) -> list[dict[str, Any]]:
    """TTFT of every method beside our own full prefill, KVs on the device and in host memory."""
    prompt = random_models.random_prompt(n, config.chunk_size, engine.modules.config.vocab_size)
    selectors = {method.spec: method.selector() for method in config.methods_at(n)}
    needed = sorted({name for selector in selectors.values() for name in selector.needs})
    captured = capture(engine.modules, prompt, SINK, needed)
    kv = captured.kv
    engine.cache.reserve(n + DECODED_TOKENS)
    host = torch.empty_like(kv, device="cpu", pin_memory=engine.device.type == "cuda").copy_(kv)
    readers: Mapping[str, Any] = dict(zip(SOURCES, (gate.reader(kv), streamed(host)), strict=True))
    taken: dict[str, list[Prefill]] = {}

    def measure(name: str, run_one: Callable[[], Prefill]) -> float:
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
    contestants = {name: partial(measure, name, one) for name, one in runs.items()}
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


def main(config: GpuCheckConfig) -> None:
    """Do what was asked for, print the tables, keep ``outputs/bench/gpu.json`` after every part."""
    device = require_gpu(config)
    dtypes = [getattr(torch, name) for name in config.dtypes]
    result: dict[str, Any] = {
        "environment": {**machine(device, LIBRARY), "kvfuse": revision()},
        "configuration": asdict(config),
        **{part: [] for part in PARTS},
    }
    path = Path(config.outputs) / "bench" / "gpu.json"
    if device.type == "cuda":
        kinds = {(dtypes[0], random_models.heads(config.shape)[2])}
        if {"gates", "equivalence"} & set(config.parts):
            kinds |= set(product(dtypes, config.head_dims))
        used = sorted({*config.backends, config.backend} - {"auto", "sdpa"})
        print(f"gpu-check: kernels ready after {warm(device, kinds, used):.0f} s", flush=True)
    for part in PARTS:
        if part not in config.parts:
            continue
        start = time.perf_counter()
        for rows in PROVERS[part](device, dtypes, config, result):
            result[part] += rows
            keep(path, result)
        print(f"gpu-check: {part} done in {time.perf_counter() - start:.0f} s", flush=True)
    keep(path, result)
    bad = failures(result)
    for line in bad:
        print(f"gpu-check: FAILED: {line}", file=sys.stderr)
    print(f"\n{tables(result)}\n\ngpu-check: {path}", flush=True)
    if bad:
        sys.exit(1)


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Write what there is so far: a run that is cut short loses no more than one step of it."""
    with writing(path) as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")


Found = Iterator[list[dict[str, Any]]]
Prover = Callable[[torch.device, list[torch.dtype], GpuCheckConfig, dict[str, Any]], Found]


def prove_gates(
    device: torch.device, dtypes: list[torch.dtype], config: GpuCheckConfig, _: Any
) -> Found:
    """The gates of small models, one by one."""
    for dtype, head_dim in product(dtypes, config.head_dims):
        yield gates(device, [dtype], [head_dim], config.backend)


def prove_kernels(
    device: torch.device, dtypes: list[torch.dtype], config: GpuCheckConfig, _: Any
) -> Found:
    """Every kernel against masked SDPA, length by length, the shortest first."""
    if device.type != "cuda":
        return
    for n in equivalence.LENGTHS:
        found = equivalence.run(device, dtypes, config.head_dims, [n], backends=config.backends)
        yield [asdict(comparison) for comparison in found]


def time_attention(
    device: torch.device, dtypes: list[torch.dtype], config: GpuCheckConfig, _: Any
) -> Found:
    """One layer's attention, length by length, the shortest first."""
    for n in sorted(config.tokens):
        yield attention(device, dtypes[0], config, n)


def timed_model(device: torch.device, dtype: torch.dtype, config: GpuCheckConfig) -> Any:
    """The model that is timed, with random weights."""
    release(device)
    shape = random_models.llama(config.shape, config.layers, max(config.tokens))
    return random_models.build(shape, device, dtype)


def time_prefill(
    device: torch.device,
    dtypes: list[torch.dtype],
    config: GpuCheckConfig,
    result: dict[str, Any],
) -> Found:
    """Full and fused prefill, length by length."""
    engine = Engine(timed_model(device, dtypes[0], config), config.backend, config.fast)
    result["environment"]["backend"] = engine.backend
    for n in config.tokens:
        yield prefill(engine, config, n)


def time_yardsticks(
    device: torch.device, dtypes: list[torch.dtype], config: GpuCheckConfig, _: Any
) -> Found:
    """What others reach here."""
    cuda = device.type == "cuda"
    side, size = (yardsticks.SIDE, yardsticks.COPIED_BYTES) if cuda else (256, 1 << 20)
    yield yardsticks.machine(device, dtypes[0], side, size)
    engine = Engine(timed_model(device, dtypes[0], config), config.backend)
    for n in sorted(config.tokens):
        yield yardsticks.prefills(engine, config, n)


def time_switches(
    device: torch.device,
    dtypes: list[torch.dtype],
    config: GpuCheckConfig,
    result: dict[str, Any],
) -> Found:
    """The gate under every switch, and what each of them takes."""
    head_dim = random_models.heads(config.shape)[2]
    result["gates"] += switches.gates(device, dtypes[0], head_dim, config.backend)
    model = timed_model(device, dtypes[0], config)
    yield from switches.measure(model, config, max(config.tokens))


PROVERS: dict[str, Prover] = {
    "gates": prove_gates,
    "equivalence": prove_kernels,
    "attention": time_attention,
    "yardsticks": time_yardsticks,
    "prefill": time_prefill,
    "switches": time_switches,
}


if __name__ == "__main__":
    sys.exit(command("gpu-check", GpuCheckConfig, main))
