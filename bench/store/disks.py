"""``python -m bench.store.disks``: cold TTFT by codec and disk, layers read ahead or not.

A slow disk is the machine's own behind a bucket that fills at a rate, see
:class:`models.kv.disk.SlowDisk`; the page cache is dropped before every run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.config import SHORTEST
from bench.prompts import real_prompt
from bench.rounds import interleave
from models import codecs, selectors
from models.atomic import writing
from models.chunks.store import ChunkStore
from models.engine import Engine, Prefill
from models.errors import UserError
from models.kv import store
from models.kv.capture import capture
from models.kv.chunked import ChunkedItem
from models.kv.disk import Disk, SlowDisk
from models.kv.overlap import Reading
from models.kv.pieces import pieces
from models.load.source import check, resolve
from models.load.tokenizer import fingerprint, frame, load_tokenizer
from models.load.weights import load
from models.timing import Stopwatch
from stage.columns import columns
from stage.config import MachineOptions
from stage.options import command, option

ITEM = "item"  # a codec's place for kvs.pt, the file that holds a whole item


@dataclass
class DisksConfig(MachineOptions):
    """Time cold prefills over each codec and disk."""

    model: str = option("smollm2-135m", "alias of config/models.yaml, hub id, folder or .gguf file")
    kvs: str = option("kvs", "folder in which KVs lie while they are timed")
    outputs: str = option("outputs", "folder of the results")
    lengths: list[int] = option([4096, 8128], "prompt lengths in tokens")
    codec: list[str] = option(
        [ITEM, "none", "bf16", "fp8", "int8", "k8v4", "int4"],
        f"codecs of chunks; {ITEM} is kvs.pt, the layout without a store",
    )
    disks: list[float] = option([0.0, 100.0, 500.0], "MB/s; 0 is the disk as it is")
    method: str = option("debug", "the method, as in REUSE")
    rate: float = option(0.15, "share of document positions that is recomputed")
    rounds: int = option(3, "interleaved rounds after the warm-up")
    chunk_size: int = option(512, "tokens of a chunk")

    def __post_init__(self) -> None:
        check(self.model)
        self.check_threads()
        self.check_unswitched()
        for name in self.codec:
            if name != ITEM:
                codecs.build(name)
        if min(self.disks) < 0 or self.rounds < 1 or not 0 <= self.rate <= 1:
            raise UserError("DISKS are MB/s of 0 or more, ROUNDS 1 or more, RATE a share")
        if self.chunk_size < 2:
            raise UserError(f"CHUNK_SIZE={self.chunk_size} must be 2 or more")
        if min(self.lengths) < SHORTEST:
            raise UserError(f"LENGTHS={min(self.lengths)}: give {SHORTEST} or more")


@dataclass
class Case:
    """One codec on one disk, read ahead or first; what its runs leave besides their times."""

    codec: str
    item: store.StoredItem | ChunkedItem
    mb_per_s: float
    overlap: bool
    readings: list[Reading] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    dropped: bool = True

    @property
    def name(self) -> str:
        """Unique among the cases of one prompt."""
        return f"{self.codec} {self.mb_per_s:g} {'overlap' if self.overlap else 'first'}"


class Disks:
    """One prompt, its KVs under every codec, and every way to read them."""

    def __init__(self, config: DisksConfig, n: int, folder: Path) -> None:
        self.config = config
        source = resolve(config.model)
        tokenizer = load_tokenizer(source)
        loaded = load(source, tokenizer, config.device, config.dtype)
        self.engine = Engine(loaded.model, config.backend)
        self.selector = selectors.build(config.method)
        self.prompt = real_prompt(tokenizer, n, config.chunk_size)
        modules = self.engine.modules
        sink = frame(tokenizer, loaded.model.config, chat=False).sink
        meta = store.describe(
            modules,
            self.prompt,
            model=loaded.name,
            weights=loaded.fingerprint,
            tokenizer=fingerprint(tokenizer),
            chunking={"chunk_size": config.chunk_size},
        )
        captured = capture(modules, self.prompt, sink, scores=self.selector.needs)
        store.write(folder, captured, meta)
        self.whole = store.StoredItem(folder, meta, "bench")
        self.items: dict[str, store.StoredItem | ChunkedItem] = {}
        for name in config.codec:
            if name == ITEM:
                self.items[name] = self.whole
                continue
            chunks = ChunkStore(folder / name.replace(":", "-") / "chunks")
            segments = pieces(self.prompt, sink)
            item = ChunkedItem(chunks, "b/item", meta, segments, codecs.build(name), "bench")
            item.put_all(captured.kv)
            self.items[name] = item

    def rows(self) -> list[dict[str, Any]]:
        """A row for every codec and disk."""
        cases = [
            Case(name, item, rate, overlap)
            for rate in self.config.disks
            for name, item in self.items.items()
            for overlap in (False, True)
        ]
        contestants: dict[str, Callable[[], float]] = {
            "full": lambda: self.engine.full_prefill(self.prompt).ttft_ms
        }
        for name, item in self.items.items():
            opening = next(case for case in cases if case.codec == name)
            contestants[opening.name] = partial(self.cold, opening)
            contestants[f"{name} ready"] = partial(self.ready, item)
        contestants |= {case.name: partial(self.cold, case) for case in cases}
        warm = [case.name for case in cases if case.mb_per_s]
        title = f"N = {len(self.prompt)}"
        timed = interleave(contestants, self.config.rounds, self.engine.device, title, warm)
        found = []
        for first, ahead in zip(cases[::2], cases[1::2], strict=True):
            reading = ahead.readings[-1]
            found.append(
                {
                    "n": len(self.prompt),
                    "codec": first.codec,
                    "mb_per_s": first.mb_per_s,
                    "mb": reading.nbytes / 1e6,
                    "full_ms": timed["full"].median,
                    "ready_ms": timed[f"{first.codec} ready"].median,
                    "first_ms": timed[first.name].median,
                    "overlap_ms": timed[ahead.name].median,
                    "spread_ms": [timed[first.name].spread, timed[ahead.name].spread],
                    "reached_mb_per_s": median(_speed(r) for r in first.readings),
                    "visible": median(r.visible or 0.0 for r in ahead.readings),
                    "decode_ms": median(r.decode_ms for r in first.readings),
                    "parts_ms": [first.parts[-1], ahead.parts[-1]],
                    "dropped": first.dropped and ahead.dropped,
                }
            )
        return found

    def cold(self, case: Case) -> float:
        """TTFT with the KVs on the case's disk, their pages dropped before."""
        item = case.item
        item.disk = SlowDisk(case.mb_per_s * 1e6) if case.mb_per_s else Disk()
        item.overlap = case.overlap
        case.dropped &= item.forget() is not False
        prefill = self._fused(item.cold if case.overlap else partial(_read_first, item))
        assert item.stream is not None, "a cold run reads"
        case.readings.append(item.stream.reading)
        case.parts.append(prefill.parts_ms)
        return prefill.ttft_ms

    def ready(self, item: store.StoredItem | ChunkedItem) -> float:
        """TTFT with the KVs in memory, where a cold run left them; it is run again to do so."""
        item.disk, item.overlap = Disk(), True
        item.forget()
        self._fused(item.cold)
        return self._fused(item.ready).ttft_ms

    def _fused(self, read: Any) -> Prefill:
        generator = torch.Generator().manual_seed(0)
        return self.engine.fused_prefill(
            self.prompt, read, self.selector, self.config.rate, generator, self.whole.scores
        )


def _read_first(item: store.StoredItem | ChunkedItem, watch: Stopwatch, target: Tensor) -> None:
    """Everything is read and decoded before anything is computed."""
    item.cold(watch, target).finish()


def _speed(reading: Reading) -> float:
    return (reading.bytes_per_s or 0.0) / 1e6


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows for people; times in milliseconds."""
    head = [
        "N", "disk MB/s", "codec", "MB", "reached MB/s", "read first", "overlap", "ready", "full",
        "decode", "visible %",
    ]  # fmt: skip
    cells = [
        [
            str(row["n"]),
            f"{row['mb_per_s']:g}" if row["mb_per_s"] else "own",
            row["codec"],
            f"{row['mb']:.0f}",
            f"{row['reached_mb_per_s']:.0f}",
            *(f"{row[key]:.0f}" for key in ("first_ms", "overlap_ms", "ready_ms", "full_ms")),
            f"{row['decode_ms']:.0f}",
            f"{row['visible'] * 100:.0f}" + ("" if row["dropped"] else " (pages stayed)"),
        ]
        for row in rows
    ]
    return columns([head, *cells], [">", ">", "<", *[">"] * (len(head) - 3)])


def main(config: DisksConfig) -> None:
    """Measure, print, and keep ``disks.json``."""
    if config.threads:
        torch.set_num_threads(config.threads)
    root = Path(config.kvs)
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in config.lengths:
        with tempfile.TemporaryDirectory(dir=root, prefix=".disks-") as folder:
            found = Disks(config, n, Path(folder)).rows()
        print(*table(found), "", sep="\n", flush=True)
        rows += found
    path = Path(config.outputs) / "bench" / "disks.json"
    with writing(path) as file:
        file.write(json.dumps(rows, indent=2).encode() + b"\n")
    print(path)


if __name__ == "__main__":
    sys.exit(command("disks", DisksConfig, main))
