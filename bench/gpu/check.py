"""``make gpu-check``: gates, equivalence and speed of the CUDA path, with random weights only.

Run it from the repository root with nothing else on the device: ``python -m bench.gpu.check``. The
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
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.gpu import attention, prefill, random_models, switches, yardsticks
from bench.gpu.config import PARTS, GpuCheckConfig, require_gpu
from bench.gpu.table import failures, tables
from models import gate
from models.atomic import writing
from models.attention import equivalence, kernels
from models.attention.paged import workspace
from models.engine import Engine
from models.linear.layers import LIBRARY
from models.timing import synchronize
from stage.environment import machine, revision
from stage.options import command

SINK = [1]
GATE_TOKENS = 1000


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


def release(device: torch.device) -> None:
    """Let go of what is left on the device, or it would sit in the peak of whatever comes next."""
    workspace.cache_clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
        yield attention.measure(device, dtypes[0], config, n)


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
        yield prefill.measure(engine, config, n)


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
