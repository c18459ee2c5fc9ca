"""What one item's chunks take to make, and what a question that reads them saves: measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.breakeven import Point
from bench.rounds import interleave
from data.inputs import Item
from models.chunks.store import ChunkStore, folder_of
from models.kv.capture import encode
from models.kv.chunked import ChunkedItem
from models.kv.front import Fronts
from models.selectors import BaseSelector
from models.timing import synchronize
from stage.session import Session


@dataclass
class Measured:
    """One item: what its KVs take to make, and by codec a point of the break-even.

    ``read_ms`` is what the reading took, whoever waited for it.
    """

    tokens: int
    precompute_ms: float
    points: dict[str, Point]
    read_ms: dict[str, float]


def measure(
    sessions: Sequence[Session], item: Item, selector: BaseSelector, rate: float, rounds: int
) -> Measured:
    """Run an item's chunks, keep them under every codec in a folder that goes, and read them back.

    Full and cold prefills take turns; the page cache is dropped before each cold one.
    """
    session = sessions[0]
    engine, folder = session.engine, folder_of(session.config.kvs)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".plan-", dir=folder) as place:
        chunks = ChunkStore(Path(place) / "chunks")
        stored = {each.config.codec[0]: _stored(each, item, chunks) for each in sessions}
        pieces = [part.piece for part in next(iter(stored.values())).parts]
        fronts = Fronts(engine.modules)
        for piece in pieces:
            fronts.one(piece.front)  # what all chunks stand behind is run once for all of them
        synchronize(engine.device)
        start = perf_counter()
        kv, scores = encode(engine.modules, pieces, fronts.one, selector.needs)
        next(iter(stored.values())).put_all(kv, scores)
        precompute_ms = (perf_counter() - start) * 1e3
        for each in list(stored.values())[1:]:
            each.put_all(kv, scores)
        loads, reads = ({codec: list[float]() for codec in stored} for _ in range(2))

        def cold_ms(codec: str) -> float:
            read = stored[codec]
            read.forget()
            cold: Any = read.cold
            prefill = engine.fused_prefill(
                item.prompt,
                cold,
                selector,
                rate,
                torch.Generator().manual_seed(0),
                read.scores,
                headers=session.headers(item),
            )
            loads[codec].append(prefill.parts_ms["load"])
            if read.stream is not None:
                reads[codec].append(read.stream.reading.read_ms)
            return prefill.ttft_ms

        engine.cache.reserve(len(item.prompt))
        contestants = {"full": lambda: engine.full_prefill(item.prompt).ttft_ms} | {
            codec: partial(cold_ms, codec) for codec in stored
        }
        timed = interleave(contestants, rounds, engine.device, f"item {item.id}")
        n = len(item.prompt)
        points = {}
        for codec, read in stored.items():
            load = median(loads[codec][-rounds:])
            compute = timed[codec].median - load
            full = timed["full"].median
            layers = len(engine.modules.layers)
            points[codec] = Point(n, precompute_ms, full, compute, load, read.nbytes, layers)
        read_ms = {codec: median(reads[codec][-rounds:]) for codec in stored}
    return Measured(n, precompute_ms, points, read_ms)


def _stored(session: Session, item: Item, chunks: ChunkStore) -> ChunkedItem:
    stored = session.stored(item)
    assert isinstance(stored, ChunkedItem)
    return replace(stored, store=chunks)


def chosen(session: Session, count: int) -> list[Item]:
    """Items from the shortest to the longest, evenly: the middle one where one is asked for."""
    items = sorted(session.inputs.items, key=lambda item: len(item.prompt))
    count = min(count, len(items))
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


def mean_saving(items: Sequence[Item], points: Sequence[Point], disk: float | None) -> float:
    """Milliseconds that a question saves, the mean over all items.

    Between the prompts measured a saving is taken as a straight line; beyond them it stays.
    """
    known = sorted((point.n, point.saving_ms(disk)) for point in points)
    lengths, savings = zip(*known, strict=True)
    return float(np.mean(np.interp([len(item.prompt) for item in items], lengths, savings)))
