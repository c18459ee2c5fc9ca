"""``make bench``: speed of precompute and of prefill on this machine, against the library's own.

Run it from the repository root with nothing else running: ``python -m bench``. Rounds interleave
all contestants, so that a slow minute hits all of them; medians are reported.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from bench.prompts import QUESTION_TOKENS, real_prompt
from data.cli import option, run
from data.environment import describe, peak_mb
from data.session import ModelConfig
from models import selectors, store
from models.atomic import writing
from models.attention import INTERFACE
from models.capture import capture
from models.engine import Engine
from models.flops import flop_limit
from models.load import load
from models.source import resolve
from models.spans import Prompt
from models.timing import synchronize
from models.tokenizer import fingerprint, load_tokenizer


@dataclass
class BenchConfig(ModelConfig):
    """Measure precompute and prefill at several prompt lengths."""

    lengths: list[int] = option([1024, 2048, 4096], "prompt lengths in tokens")
    methods: list[str] = option(["full", "random", "blend", "debug"], "methods to time")
    rate: float = option(0.15, "share of document positions that is recomputed")
    rounds: int = option(5, "interleaved rounds after the warm-up")
    chunk_size: int = option(512, "tokens of a chunk")


class Bench:
    """One model, its engine, and the library's own forward over the same weights."""

    def __init__(self, config: BenchConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config
        source = resolve(config.model)
        self.tokenizer = load_tokenizer(source)
        self.loaded = load(source, self.tokenizer, config.device, config.dtype)
        self.engine = Engine(self.loaded.model, config.backend)
        self.sink = [self.tokenizer.bos_token_id or 0]

    @torch.inference_mode()
    def library(self, ids: list[list[int]], head: bool) -> float:
        """Milliseconds of the library's own SDPA forward over a batch of equal lengths."""
        model = self.loaded.model
        model.set_attn_implementation("sdpa")
        try:
            batch = torch.tensor(ids, device=self.engine.device)
            synchronize(self.engine.device)
            start = time.perf_counter()
            if head:
                model(batch, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
            else:
                model.model(batch, use_cache=True)
            synchronize(self.engine.device)
            return (time.perf_counter() - start) * 1e3
        finally:
            model.set_attn_implementation(INTERFACE)

    def capture_ms(self, prompt: Prompt) -> float:
        """Milliseconds of stage 2's forward, without the disk."""
        start = time.perf_counter()
        capture(self.engine.modules, prompt, self.sink)
        synchronize(self.engine.device)
        return (time.perf_counter() - start) * 1e3

    def precompute_row(self) -> dict[str, Any]:
        """Tokens/s of stage 2 beside the library's batched forward over the same chunks."""
        size = self.config.chunk_size
        prompt = real_prompt(self.tokenizer, 8 * (size - 1) + QUESTION_TOKENS, size - 1, prefix=0)
        chunks = [[*self.sink, *prompt.ids[slice(*span)]] for span in prompt.chunks]
        only_chunks = Prompt.join([], [c[1:] for c in chunks], [prompt.ids[-1]])
        tokens = sum(map(len, chunks))
        times = self._rounds(
            {
                "library": lambda: self.library(chunks, head=False),
                "kvfuse": lambda: self.capture_ms(only_chunks),
            }
        )
        ours, theirs = (tokens / median(times[name]) * 1e3 for name in ("kvfuse", "library"))
        return {
            "chunks": len(chunks),
            "chunk_tokens": size,
            "tokens_per_s": ours,
            "library_tokens_per_s": theirs,
            "ratio": ours / theirs,
        }

    def prefill_rows(self, n: int, folder: Path) -> list[dict[str, Any]]:
        """TTFT of every method at ``n`` tokens, cache-ready and cold, beside two full prefills."""
        engine, config = self.engine, self.config
        prompt = real_prompt(self.tokenizer, n, config.chunk_size)
        meta = store.describe(
            engine.modules,
            prompt,
            model=self.loaded.name,
            weights=self.loaded.fingerprint,
            tokenizer=fingerprint(self.tokenizer),
            chunking={"chunk_size": config.chunk_size},
        )
        store.write(folder, capture(engine.modules, prompt, self.sink), meta)
        file = store.KVFile(folder / store.KVS, meta, "make bench")
        engine.cache.reserve(n)
        recomputed: dict[str, torch.Tensor] = {}

        def fused(method: str, cold: bool) -> float:
            if cold:
                file.forget()
            prefill = engine.fused_prefill(
                prompt,
                file.cold if cold else file.ready,
                selectors.make(method),
                config.rate,
                torch.Generator().manual_seed(0),
            )
            recomputed[method] = prefill.recomputed
            return prefill.ttft_ms

        contestants: dict[str, Callable[[], float]] = {
            "library": lambda: self.library([list(prompt.ids)], head=True),
            "kvfuse": lambda: engine.full_prefill(prompt).ttft_ms,
        }
        for method in config.methods:
            contestants[f"{method} cold"] = partial(fused, method, cold=True)
            contestants[f"{method} ready"] = partial(fused, method, cold=False)
        times = {name: median(values) for name, values in self._rounds(contestants).items()}
        rows = []
        for method in config.methods:
            dense = selectors.make(method).dense_layers
            limit = flop_limit(engine.modules, prompt, recomputed[method], dense)
            ready = times[f"{method} ready"]
            rows.append(
                {
                    "n": n,
                    "rate": config.rate,
                    "method": method,
                    "backend": engine.backend,
                    "dtype": engine.modules.dtype_name,
                    "threads": torch.get_num_threads(),
                    "ready_ms": ready,
                    "cold_ms": times[f"{method} cold"],
                    "full_ms": times["kvfuse"],
                    "library_full_ms": times["library"],
                    "speedup_ready": times["kvfuse"] / ready,
                    "speedup_cold": times["kvfuse"] / times[f"{method} cold"],
                    "flop_limit": limit,
                    "share_of_limit": times["kvfuse"] / ready / limit,
                    "peak_mb": peak_mb(),
                }
            )
        return rows

    def _rounds(self, contestants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Warm everything up, then time everything once a round."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for index in tqdm(range(self.config.rounds + 1), "bench", unit="round", disable=None):
            for name, measure in contestants.items():
                elapsed = measure()
                if index:
                    times[name].append(elapsed)
        return times


def main(config: BenchConfig) -> None:
    """Measure, print the tables, and write ``outputs/bench/bench.json``."""
    bench = Bench(config)
    precompute = bench.precompute_row()
    print(
        f"precompute: {precompute['tokens_per_s']:.0f} tokens/s, the library's batched forward "
        f"{precompute['library_tokens_per_s']:.0f} ({precompute['ratio']:.2f}x)\n"
    )
    header = ("N", "method", "library ms", "full ms", "ready ms", "cold ms", "speed-up", "of limit")
    print("  ".join(f"{name:>10}" for name in header))
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for n in config.lengths:
            for row in bench.prefill_rows(n, Path(folder)):
                cells = [str(row["n"]), row["method"]]
                cells += [
                    f"{row[key]:.0f}"
                    for key in ("library_full_ms", "full_ms", "ready_ms", "cold_ms")
                ]
                cells += [f"{row['speedup_ready']:.2f}x", f"{100 * row['share_of_limit']:.0f}%"]
                print("  ".join(f"{cell:>10}" for cell in cells), flush=True)
                rows.append(row)
    result = {
        "environment": describe(bench.loaded, bench.engine),
        "precompute": precompute,
        "rows": rows,
    }
    path = Path(config.outputs) / "bench" / "bench.json"
    with writing(path) as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")
    print(f"\nbench: {path}")


if __name__ == "__main__":
    run(BenchConfig, main, "bench")
