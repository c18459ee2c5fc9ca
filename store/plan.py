"""``kvfuse store plan``: what keeping these inputs' chunks takes and saves, from measured times."""

from __future__ import annotations

from chunk.build import ensure
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch

from bench.breakeven import BANDWIDTHS, Point
from bench.rounds import interleave
from data.inputs import Item
from models import selectors
from models.chunks.store import ChunkStore
from models.errors import UserError
from models.kv import store
from models.kv.capture import encode
from models.kv.chunked import ChunkedItem
from models.kv.front import Fronts
from models.selectors import BaseSelector
from models.timing import synchronize
from precompute.layouts import Survey, coded_bytes, survey
from stage.columns import columns
from stage.config import METHOD, ModelConfig
from stage.options import option
from stage.session import Session, begin

DISKS = (None, *BANDWIDTHS)
NOTE = """saves ms: a question's full prefill less its cold TTFT, the mean over these inputs, on the
disk measured and at so many GB/s. pays after: questions until what is saved is what precompute
took, and in brackets the uses of a chunk that this makes; -: never."""


@dataclass
class PlanConfig(ModelConfig):
    """Count the chunks of a dataset, and measure on some of its items what keeping them saves."""

    reuse: str = option(METHOD, "the method that questions are answered with")
    rate: float = option(0.15, "share of document tokens that it recomputes (0.15)")
    samples: int = option(3, "items that are measured, from short to long; 0 counts only (3)")
    rounds: int = option(3, "times that each is measured (3)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate <= 1:
            raise UserError(f"RATE={self.rate} is outside [0, 1]")
        if self.samples < 0 or self.rounds < 1:
            raise UserError("give SAMPLES=0 or more, and ROUNDS=1 or more")


@dataclass(frozen=True)
class Held:
    """What these inputs hold, and what of it is kept once.

    Attributes
    ----------
    uses, chunks : segments in all items, and different ones. tokens, distinct : their tokens.
    item_bytes, chunk_bytes : KVs in a file an item, and as chunks under a codec.
    """

    items: int
    uses: int
    chunks: int
    tokens: int
    distinct: int
    item_bytes: int
    chunk_bytes: int
    new: int

    @classmethod
    def of(cls, session: Session, found: Survey) -> Held:
        """Counted from a survey of the session's items under its codec."""
        tokens = sum(n * found.uses[key] for key, n in found.tokens.items())
        coded = sum(found.tokens[key] for key in found.coded)
        per_token = store.kv_bytes(session.engine.modules, 1)
        typical = 512
        under = coded_bytes(session, session.codec, typical) / typical
        return cls(
            len(session.inputs.items),
            found.uses.total(),
            len(found.tokens),
            tokens,
            found.all_tokens,
            per_token * tokens,
            int(per_token * (found.all_tokens - coded) + under * coded),
            len(found.new),
        )

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.items} items hold {self.uses} chunks, {self.chunks} of them different "
            f"({self.uses / self.chunks:.1f} uses each); {self.new} are not kept yet",
            f"tokens to run: {self.tokens} an item by itself, {self.distinct} every chunk once "
            f"({_less(self.tokens, self.distinct)})",
        ]


def main(config: PlanConfig) -> None:
    """Plan every dataset named."""
    selector = selectors.build(config.reuse)
    if selector.oracle:
        raise UserError(f"REUSE={config.reuse} is an oracle: its time means nothing")
    for session in begin(config, ensure):
        own = session if config.context != "auto" else session.behind(selector.context)
        print("\n".join(planned(own, config, selector)))


def planned(session: Session, config: PlanConfig, selector: BaseSelector) -> list[str]:
    """The plan of one dataset, in lines."""
    coded = [
        replace(session, config=replace(session.config, store="chunks", codec=[codec]))
        for codec in config.codec
    ]
    held = {
        each.config.codec[0]: Held.of(each, survey(each, each.inputs.items, verify=False))
        for each in coded
    }
    first = next(iter(held.values()))
    name = f"{session.source.name} on {session.dataset.name}, chunks behind {session.context.label}"
    lines = [name, *first.lines()]
    sizes = [["a file an item", _gigabytes(first.item_bytes), "-"]] + [
        [
            f"chunks, {codec}",
            _gigabytes(found.chunk_bytes),
            _less(first.item_bytes, found.chunk_bytes),
        ]
        for codec, found in held.items()
    ]
    lines += ["", *columns([["KVs on disk", "GB", "less"], *sizes], ["<", ">", ">"])]
    if not config.samples:
        return lines
    measured = [measure(coded, item, config, selector) for item in chosen(session, config.samples)]
    rate = sum(m.tokens for m in measured) / sum(m.precompute_ms for m in measured) * 1e3
    lines += ["", f"precompute: {rate:.0f} tokens/s, {first.distinct / rate:.0f} s in all"]
    rows = []
    for codec in held:
        points = [m.points[codec] for m in measured]
        rows.append([codec, *_row(session.inputs.items, points, first, rate)])
    head = ["codec", "load ms", "GB/s", *(f"saves {_disk(d)}" for d in DISKS)]
    head += [f"pays after {_disk(d)}" for d in DISKS]
    return [*lines, "", *columns([head, *rows], ["<", *[">"] * (len(head) - 1)]), "", NOTE]


@dataclass
class Measured:
    """One item: what its KVs take to make, and a point of the break-even under each codec."""

    tokens: int
    precompute_ms: float
    points: dict[str, Point]


def measure(
    sessions: Sequence[Session], item: Item, config: PlanConfig, selector: BaseSelector
) -> Measured:
    """Run an item's chunks, keep them under every codec in a folder that goes, and read them back.

    Full and cold prefills take turns; the page cache is dropped before each cold one.
    """
    session = sessions[0]
    engine, folder = session.engine, Path(config.kvs)
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
        loads: dict[str, list[float]] = {codec: [] for codec in stored}

        def cold(codec: str) -> float:
            read = stored[codec]
            read.forget()
            prefill = engine.fused_prefill(
                item.prompt,
                read.cold,
                selector,
                config.rate,
                torch.Generator().manual_seed(0),
                read.scores,
                headers=session.headers(item),
            )
            loads[codec].append(prefill.parts_ms["load"])
            return prefill.ttft_ms

        engine.cache.reserve(len(item.prompt))
        contestants = {"full": lambda: engine.full_prefill(item.prompt).ttft_ms} | {
            codec: partial(cold, codec) for codec in stored
        }
        timed = interleave(contestants, config.rounds, engine.device, f"item {item.id}")
        n = len(item.prompt)
        points = {}
        for codec, read in stored.items():
            load = median(loads[codec][-config.rounds :])
            compute = timed[codec].median - load
            full = timed["full"].median
            points[codec] = Point(n, precompute_ms, full, compute, load, read.nbytes)
    return Measured(n, precompute_ms, points)


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


def _row(items: Sequence[Item], points: Sequence[Point], held: Held, rate: float) -> list[str]:
    """A codec's load, and for every disk what a question saves and when precompute is repaid."""
    load = sum(point.load_ms for point in points)
    nbytes = sum(point.kv_bytes for point in points)
    savings = [mean_saving(items, points, disk) for disk in DISKS]
    total_ms = held.distinct / rate * 1e3
    pays = [total_ms / saving if saving > 0 else None for saving in savings]
    per_question = held.uses / held.chunks / held.items
    return [
        f"{median(point.load_ms for point in points):.0f}",
        f"{nbytes / load / 1e6:.2f}",
        *(f"{saving:.0f}" for saving in savings),
        *("-" if n is None else f"{n:.0f} ({n * per_question:.1f})" for n in pays),
    ]


def mean_saving(items: Sequence[Item], points: Sequence[Point], disk: float | None) -> float:
    """Milliseconds that a question saves, the mean over all items.

    Between the prompts measured a saving is taken as a straight line; beyond them it stays.
    """
    known = sorted((point.n, point.saving_ms(disk)) for point in points)
    lengths, savings = zip(*known, strict=True)
    return float(np.mean(np.interp([len(item.prompt) for item in items], lengths, savings)))


def _disk(gb_per_s: float | None) -> str:
    return "here" if gb_per_s is None else f"{gb_per_s:g} GB/s"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f}"


def _less(before: int, after: int) -> str:
    return f"{100 * (1 - after / before):.0f}% less" if before else "-"
