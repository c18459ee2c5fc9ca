"""The chunk store by its size: put, get, index and gc at so many chunks, without a model.

Run it from the repository root with nothing else running: ``python -m bench.store.growth``. Chunks
have the names and the meta of real ones and payloads of a few kB of random bytes: what is measured
depends on how many files there are. ``KEEP=1`` keeps the store, so that a larger count goes on from
a smaller one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from blake3 import blake3
from tqdm import tqdm

from bench.memory import peak_of
from models.atomic import writing
from models.chunks import format, manifests
from models.chunks.index import LOCK, NAME, SEAL
from models.chunks.names import name_of
from models.chunks.sizes import shown
from models.chunks.store import CHUNKS, ChunkStore
from models.errors import UserError
from stage.columns import columns
from stage.options import command, option
from store.config import GcConfig
from store.gc import gc

# One head and one token, so that 100,000 chunks fit on a disk: a real one has 3 and 512.
LAYERS, HEADS, TOKENS = 30, 1, 1
PER_ITEM, USES = 8, 2  # chunks of an item, and items that name a chunk
ORPHANS, EVICTED = 0.05, 0.1  # shares of the store that gc removes, for either reason
SAMPLE = 1000  # chunks that are put and got
MODEL = "random"
HEAD = ["chunks", "bytes", "put ms", "get ms", "index s", "again s", "gc s", "removed", "peak MB"]
LEGEND = """
put, get: of one chunk, got verified, over {sample}; index: made from nothing; again: compared with
files that did not change; gc: with all that nobody refers to and above a budget of 90 %; peak:
memory beyond what the process had, the largest of these. Files were in the page cache.
"""


@dataclass
class ChunkStoreConfig:
    """Fill a store with random chunks and measure it."""

    counts: list[int] = option([10_000, 30_000, 100_000], "chunks at which the store is measured")
    kvs: str = option("kvs/.bench-store", "folder of the store")
    outputs: str = option("outputs", "folder of the results")
    keep: bool = option(False, "1 keeps the store")

    def __post_init__(self) -> None:
        if min(self.counts) < SAMPLE:
            raise UserError(f"COUNTS={min(self.counts)}: give {SAMPLE} or more")


def main(config: ChunkStoreConfig) -> None:
    """Measure at every count, the smallest first, and print a table."""
    base = Path(config.kvs) / MODEL
    rows = []
    for count in sorted(config.counts):
        fill(base, count)
        os.sync()  # or what is measured waits for what was filled
        rows.append(measured(config, base, count))
        print(json.dumps(rows[-1]), flush=True)
    if not config.keep:
        shutil.rmtree(config.kvs)
    path = Path(config.outputs) / "bench" / "chunk_store.json"
    with writing(path) as file:
        file.write(json.dumps(rows, indent=2).encode() + b"\n")
    print(*columns([HEAD, *map(cells, rows)], ">"), sep="\n")
    print(LEGEND.format(sample=SAMPLE).rstrip(), f"\n\nbench: {path}", sep="\n")


def fill(base: Path, count: int) -> None:
    """Lay ``count`` chunks, and the manifests of items that name most of them, unsynced."""
    bound = round(count * (1 - ORPHANS))
    for number in tqdm(range(count), "chunks", disable=None, leave=False):
        path = base / CHUNKS / name_of(key(number))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            head, pieces = format.encode(key(number), tensors(number), meta(number))
            path.write_bytes(b"".join([head, *pieces]))
    rng = random.Random(count)
    for number in tqdm(range(count * USES // PER_ITEM), "items", disable=None, leave=False):
        owner = f"dataset{number % 5}/item_{number}"
        path = base / manifests.name_of(owner)
        path.parent.mkdir(parents=True, exist_ok=True)
        first = number * PER_ITEM // USES  # neighbours share chunks, and some are named anywhere
        near = [(first + i) % bound for i in range(PER_ITEM - 1)]
        path.write_bytes(manifests.encode(owner, [*map(key, near), key(rng.randrange(bound))], {}))


def measured(config: ChunkStoreConfig, base: Path, count: int) -> dict[str, Any]:
    """Seconds and memory of everything at one count."""
    store = ChunkStore(base / CHUNKS)
    new = [count + number for number in range(SAMPLE)]
    made = [(key(number), tensors(number), meta(number)) for number in new]
    some = random.Random(0).sample(range(count), SAMPLE)
    found: dict[str, Any] = {"chunks": count}

    def put() -> None:
        for each in made:
            store.put(*each)

    def get() -> None:
        for number in some:
            file = store.open(key(number), verify=True)
            for name in file.names:
                file.tensor(name)

    def index() -> None:
        with store.index() as opened:
            found["bytes"] = opened.totals()[1]
            opened.uses()

    steps: dict[str, Callable[[], Any]] = {"put": put, "get": get}
    for name, work in steps.items():
        found[f"{name}_ms"], found[f"{name}_mb"] = _timed(work)
        found[f"{name}_ms"] *= 1000 / SAMPLE
    for number in new:
        store_file = base / CHUNKS / name_of(key(number))
        store_file.unlink()
    for name in (NAME, SEAL, LOCK):
        (base / CHUNKS / name).unlink(missing_ok=True)
    found["index_s"], found["index_mb"] = _timed(index)
    found["again_s"], found["again_mb"] = _timed(index)
    budget = str(round(found["bytes"] * (1 - EVICTED)))
    collect = GcConfig(kvs=config.kvs, bytes=budget, grace=0)
    found["gc_s"], found["gc_mb"] = _timed(lambda: gc(collect))
    with store.index() as opened:
        found["removed"] = count - opened.totals()[0]
    return found


def _timed(work: Callable[[], Any]) -> tuple[float, float | None]:
    """Seconds, and the most memory beyond what there was, in MB of 10^6 bytes."""
    before = psutil.Process(os.getpid()).memory_info().rss / 1e6
    seconds = 0.0

    def run() -> None:
        nonlocal seconds
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start

    peak = peak_of(run, torch.device("cpu"))
    return seconds, None if peak is None else max(0.0, peak - before)


def key(number: int) -> str:
    """As a real key: any 64 hex."""
    return str(blake3(str(number).encode()).hexdigest())


def tensors(number: int) -> dict[str, torch.Tensor]:
    """The parts of a chunk of one token."""
    made = torch.Generator().manual_seed(number)
    rows = torch.randint(2**15, (2 * LAYERS, HEADS, TOKENS, 64), generator=made, dtype=torch.int16)
    return {f"{i // 2:03}.{'kv'[i % 2]}.rows": rows[i] for i in range(2 * LAYERS)}


def meta(number: int) -> dict[str, Any]:
    """About what a real chunk says of itself."""
    return {"tokens": TOKENS, "dtype": "bfloat16", "codec": "none", "number": number}


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    peaks = [row[f"{name}_mb"] for name in ("put", "get", "index", "again", "gc")]
    known = [peak for peak in peaks if peak is not None]
    return [
        f"{row['chunks']:,}",
        shown(row["bytes"]),
        f"{row['put_ms']:.2f}",
        f"{row['get_ms']:.2f}",
        f"{row['index_s']:.2f}",
        f"{row['again_s']:.2f}",
        f"{row['gc_s']:.2f}",
        f"{row['removed']:,}",
        f"{max(known):.0f}" if known else "-",
    ]


if __name__ == "__main__":
    sys.exit(command("bench", ChunkStoreConfig, main))
