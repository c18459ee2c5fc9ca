"""``make gpu-check``: gates, equivalence and speed of the CUDA path, with random weights only.

Run it from the repository root with nothing else on the device: ``python -m bench.gpu_check``. The
first run compiles FlashInfer's kernels, which takes minutes; ``--parts`` runs some of it. To try
the flow without a GPU: ``--device cpu --shape tiny --tokens 512 --parts gates prefill``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench import equivalence, random_models
from bench.gpu_table import failures, tables
from bench.rounds import interleave
from data.cli import option, run
from data.environment import machine, revision
from models import gate, selectors
from models.atomic import writing
from models.attention import rows_for
from models.capture import capture
from models.engine import Engine, Prefill
from models.errors import UserError
from models.flashinfer_rows import FORMS, FlashInferRows, obstacle
from models.spans import Prompt
from models.timing import Stopwatch, synchronize
from models.transfer import LayerStream

PARTS = ("gates", "equivalence", "attention", "prefill")
SINK = [1]
GATE_TOKENS = 1000
LAYERS_AT_ONCE = 16
DECODED_TOKENS = 33
SOURCES = ("device", "host")


@dataclass
class GpuCheckConfig:
    """Prove and measure the CUDA path."""

    device: str = option("cuda", "cuda, or cpu to try the flow")
    parts: list[str] = option(list(PARTS), f"what to do: {', '.join(PARTS)}")
    dtypes: list[str] = option(["bfloat16", "float16"], "dtypes to prove; the first is timed")
    head_dims: list[int] = option([64, 128], "widths of heads to prove")
    shape: str = option("llama-3-8b", f"model to time: {', '.join(random_models.SHAPES)}")
    layers: int | None = option(None, "layers of the model to time (all)")
    tokens: list[int] = option([8192, 4096], "prompt lengths to time")
    methods: list[str] = option(["debug", "random", "blend"], "methods to time")
    rate: float = option(0.15, "share of document positions that is recomputed")
    chunk_size: int = option(512, "tokens of a chunk")
    rounds: int = option(7, "interleaved rounds after the warm-up")
    forms: list[str] = option(list(equivalence.FORMS), "forms to prove and to time by themselves")
    form: str = option("auto", f"how prefills attend scattered rows: {', '.join(FORMS)}")
    outputs: str = option("outputs", "folder of the results")

    def __post_init__(self) -> None:
        choices = {
            "parts": PARTS,
            "shape": tuple(random_models.SHAPES),
            "form": FORMS,
            "forms": FORMS,
            "dtypes": ("bfloat16", "float16", "float32"),
            "device": ("cuda", "cpu"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            for one in [value] if isinstance(value, str) else value:
                if one not in known:
                    raise UserError(f"--{name} {one} is none of {', '.join(known)}")
        if self.rounds < 1 or not self.dtypes or min(self.tokens) < 256:
            raise UserError("--rounds takes 1 or more, --dtypes at least one, --tokens 256 or more")


def require_gpu(config: GpuCheckConfig) -> torch.device:
    """The device of the run.

    Raises
    ------
    UserError : it has no CUDA device, or FlashInfer cannot serve it.
    """
    device = torch.device(config.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("no CUDA device here; run it where there is one, or use --device cpu")
        widths = {*config.head_dims, random_models.heads(config.shape)[2]}
        for name, head_dim in product(config.dtypes, widths):
            reason = obstacle(device, getattr(torch, name), head_dim)
            if reason:
                raise UserError(f"FlashInfer cannot be used: {reason}")
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def warm(
    device: torch.device, kinds: Collection[tuple[torch.dtype, int]], forms: Sequence[str]
) -> float:
    """Compile and load the kernels of every dtype and width side by side; gives the seconds."""

    def touch(kind: tuple[torch.dtype, int]) -> None:
        dtype, head_dim = kind
        equivalence.run(device, [dtype], [head_dim], lengths=[1024], groups=[4], forms=forms)

    start = time.perf_counter()
    with ThreadPoolExecutor(len(kinds)) as pool:
        list(pool.map(touch, kinds))
    synchronize(device)
    return time.perf_counter() - start


def gates(
    device: torch.device, dtypes: Sequence[torch.dtype], head_dims: Sequence[int]
) -> list[dict[str, Any]]:
    """Gates 1 to 3 on small models of every family."""
    results = []
    for dtype, head_dim, family in product(dtypes, head_dims, random_models.FAMILIES):
        config = random_models.small(family, head_dim)
        engine = Engine(random_models.build(config, device, dtype))
        prompt = random_models.random_prompt(GATE_TOKENS, 300, config.vocab_size)
        result = gate.run(engine, prompt, SINK)
        name = f"{family} {engine.modules.dtype_name} {head_dim}"
        results.append({"model": name, "backend": engine.backend, **result.as_dict()})
    return results


def attention(
    device: torch.device, dtype: torch.dtype, config: GpuCheckConfig, n: int
) -> list[dict[str, Any]]:
    """Milliseconds of one layer's attention by form, and of building the rows and a first layer."""
    n_heads, n_kv_heads, head_dim = random_models.heads(config.shape)
    generator = torch.Generator().manual_seed(n)
    question = torch.arange(n - random_models.QUESTION_TOKENS, n)
    chosen = torch.randperm(int(question[0]), generator=generator)[: int(n * config.rate)]
    rows = torch.cat([chosen.sort().values, question]).to(device)
    key, value = torch.randn(2, 1, n_kv_heads, n, head_dim, device=device).to(dtype)
    queries = torch.randn(1, n, n_heads, head_dim, device=device).to(dtype).transpose(1, 2)
    forms: dict[str, tuple[Tensor, Callable[[Tensor, int], Any]]] = {}
    if device.type == "cuda":
        forms["causal"] = torch.arange(n, device=device), FlashInferRows
        for form in config.forms:
            forms[form] = rows, partial(FlashInferRows, form=form)
    else:
        forms["causal"] = torch.arange(n), partial(rows_for, "blocked")
        forms["blocked"] = rows, partial(rows_for, "blocked")

    def elapsed(form: str, layers: int, built: bool) -> float:
        """Milliseconds a layer; the rows are built before the clock starts, or after."""
        positions, make = forms[form]
        query = queries[:, :, : len(positions)]
        prepared = None
        if built:
            prepared = make(positions, n)
            prepared.attend(query, key, value, head_dim**-0.5)
        synchronize(device)
        start = time.perf_counter()
        prepared = prepared or make(positions, n)
        for _ in range(layers):
            prepared.attend(query, key, value, head_dim**-0.5)
        synchronize(device)
        return (time.perf_counter() - start) * 1e3 / layers

    contestants: dict[str, Callable[[], float]] = {}
    for form in forms:
        contestants[form] = partial(elapsed, form, LAYERS_AT_ONCE, built=True)
        contestants[f"{form}: first"] = partial(elapsed, form, 1, built=False)
    timed = interleave(contestants, config.rounds, device, f"attention {n}")
    return [
        {
            "n": n,
            "form": form,
            "rows": len(positions),
            "layer_ms": timed[form].median,
            "first_ms": timed[f"{form}: first"].median,
        }
        for form, (positions, _) in forms.items()
    ]


def streamed(source: Tensor) -> Callable[[Stopwatch, Tensor], LayerStream]:
    """A reader that brings KVs from host memory layer by layer, beside the computation."""

    def read(watch: Stopwatch, target: Tensor) -> LayerStream:
        return LayerStream(source, target).start()

    return read


def prefill(engine: Engine, config: GpuCheckConfig, n: int) -> list[dict[str, Any]]:
    """TTFT of every method beside our own full prefill, KVs on the device and in host memory."""
    prompt = random_models.random_prompt(n, config.chunk_size, engine.modules.config.vocab_size)
    kv = capture(engine.modules, prompt, SINK).kv
    engine.cache.reserve(n + DECODED_TOKENS)
    host = torch.empty_like(kv, device="cpu", pin_memory=engine.device.type == "cuda").copy_(kv)
    readers: Mapping[str, Any] = dict(zip(SOURCES, (gate.reader(kv), streamed(host)), strict=True))
    taken: dict[str, list[Prefill]] = {}

    def measure(name: str, run_one: Callable[[], Prefill]) -> float:
        result = run_one()
        taken.setdefault(name, []).append(result)
        return result.ttft_ms

    def fused(method: str, source: str) -> Prefill:
        selector, generator = selectors.make(method), torch.Generator().manual_seed(0)
        return engine.fused_prefill(prompt, readers[source], selector, config.rate, generator)

    runs: dict[str, Callable[[], Prefill]] = {"full": lambda: engine.full_prefill(prompt)}
    for method, source in product(config.methods, readers):
        runs[f"{method} {source}"] = partial(fused, method, source)
    contestants = {name: partial(measure, name, one) for name, one in runs.items()}
    timed = interleave(contestants, config.rounds, engine.device, f"prefill {n}")
    full = timed["full"].median
    rows = []
    for method, source in [("full", "-"), *product(config.methods, readers)]:
        name = "full" if method == "full" else f"{method} {source}"
        results = taken[name][-config.rounds :]
        rows.append(
            {
                "n": n,
                "method": method,
                "kv": source,
                "rows": len(results[-1].recomputed),
                "ms": timed[name].median,
                "ms_spread": timed[name].spread,
                "speedup": full / timed[name].median,
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
    if method == "full":
        return True
    one, other = (taken[f"{method} {source}"][-1].logits for source in SOURCES)
    return bool((one - other).abs().max() <= 2e-2 * one.abs().max())


def decode_ms(engine: Engine, prompt: Prompt) -> float:
    """Median milliseconds of a token after a full prefill."""
    decoded = engine.decode(engine.full_prefill(prompt), DECODED_TOKENS, ())
    return median(decoded.step_ms)


def main(config: GpuCheckConfig) -> None:
    """Do what was asked for, print the tables, write ``outputs/bench/gpu.json``."""
    device = require_gpu(config)
    dtypes = [getattr(torch, name) for name in config.dtypes]
    FlashInferRows.scattered = config.form
    result: dict[str, Any] = {
        "environment": {**machine(device), "kvfuse": revision()},
        "configuration": asdict(config),
        **{part: [] for part in PARTS},
    }
    cuda = device.type == "cuda"
    if cuda:
        kinds = {(dtypes[0], random_models.heads(config.shape)[2])}
        if {"gates", "equivalence"} & set(config.parts):
            kinds |= set(product(dtypes, config.head_dims))
        used = sorted({*config.forms, config.form, "single", "paged"})
        print(f"gpu-check: kernels ready after {warm(device, kinds, used):.0f} s", flush=True)
    if "gates" in config.parts:
        result["gates"] = gates(device, dtypes, config.head_dims)
    if "equivalence" in config.parts and cuda:
        found = equivalence.run(device, dtypes, config.head_dims, forms=config.forms)
        result["equivalence"] = [asdict(comparison) for comparison in found]
    if "attention" in config.parts:
        for n in config.tokens:
            result["attention"] += attention(device, dtypes[0], config, n)
    if "prefill" in config.parts:
        shape = random_models.llama(config.shape, config.layers, max(config.tokens))
        engine = Engine(random_models.build(shape, device, dtypes[0]))
        result["environment"]["backend"] = engine.backend
        for n in config.tokens:
            result["prefill"] += prefill(engine, config, n)
    path = Path(config.outputs) / "bench" / "gpu.json"
    with writing(path) as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")
    bad = failures(result)
    for line in bad:
        print(f"gpu-check: FAILED: {line}", file=sys.stderr)
    print(f"\n{tables(result)}\n\ngpu-check: {path}", flush=True)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    run(GpuCheckConfig, main, "gpu-check")
