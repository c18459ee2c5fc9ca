"""The gates that a model must pass before any figure of it is reported.

1. ``r = 1`` ≡ full prefill. 2. One chunk, any ``r`` ≡ full prefill. 3. ``r = 0`` ≡ full reuse.
On CUDA also: 4. every attention kernel, at the model's own heads, ≡ masked SDPA in float32.

In half precision, equal means: no further apart than a few times what the full prefill itself moves
when its sums are taken in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from models import codecs, correctors, tuning
from models.attention import equivalence
from models.chunks.store import ChunkStore
from models.codecs import BaseCodec
from models.engine import Engine, Prefill
from models.finite import NotFinite
from models.kv import store
from models.kv.capture import capture
from models.kv.chunked import ChunkedItem
from models.kv.front import Fronts
from models.kv.pieces import pieces
from models.kv.store import StoredItem
from models.modules import Modules
from models.prompt import Prompt
from models.selectors import make
from models.timing import Stopwatch

# The widest that is ever allowed; in half precision what is measured is mostly narrower.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.25}
MOVES = 4  # times what other orders of the same sums move the logits, the largest of a few
KERNELS = "attention kernels equal masked SDPA"
KERNEL_LENGTHS = (300, 1100)
MAX_TOKENS = 1024
ANSWER_TOKENS = 8
# Selectors, each by itself, and the simplest one with every corrector of this project.
METHODS = (
    ("random", correctors.NONE),
    ("debug", correctors.NONE),
    ("blend", correctors.NONE),
    ("random", "shift"),
    ("random", "ridge"),
    ("random", "lowrank"),
)
RATES = (0.0, 0.15, 0.5)


Outcome = tuple[Tensor, list[int]]


@dataclass(frozen=True)
class Check:
    """One gate: the largest distance of logits found, and whether greedy answers were equal.

    ``distance`` is infinite where anything was NaN or infinite, and nothing passes with that. Of
    kernels it is relative to the output, and there are no answers.
    """

    name: str
    distance: float
    tokens_equal: bool | None
    passed: bool


@dataclass(frozen=True)
class Gate:
    """All gates of one model on one item.

    Attributes
    ----------
    tokens, chunks : of the item as it was run; with one chunk the first gate says little.
    tolerance : in logits, by dtype.
    moved : how far other orders of the same sums moved the full prefill's logits; 0 in float32.
    """

    tokens: int
    chunks: int
    tolerance: float
    checks: tuple[Check, ...]
    moved: float = 0.0

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {"passed": self.passed, **asdict(self)}


class _Stored:
    """One prompt's KVs, on disk and read as an evaluation reads them: cold once, then ready.

    Parameters
    ----------
    codec : of chunks in a store; None keeps the item in a file.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        sink: Sequence[int],
        fronts: Sequence[tuple[int, ...]],
        folder: Path,
        codec: BaseCodec | None,
    ) -> None:
        self.engine, self.prompt = engine, prompt
        modules = engine.modules
        meta = store.describe(modules, prompt, model="", weights="", tokenizer="", chunking={})
        captured = capture(modules, prompt, sink, fronts=Fronts(modules).of(fronts))
        self.item: StoredItem | ChunkedItem
        if codec is None:
            store.write(folder, captured, meta)
            ahead = tuning.ahead(engine.fast)
            self.item = StoredItem(folder, meta, "make gate", ahead=ahead)
        else:
            chunks, segments = ChunkStore(folder / "chunks"), pieces(prompt, sink, fronts)
            self.item = ChunkedItem(chunks, "gate/item", meta, segments, codec, "make gate")
            self.item.put_all(captured.kv)
        self.read: Any = self.item.cold

    def fuse(self, method: str, corrector: str, rate: float, along: Sequence[int] = ()) -> Outcome:
        """Logits of a fused prefill, and its greedy answer, see :func:`_answered`."""
        selector = make(method, check_layer=1)
        generator = torch.Generator().manual_seed(0)
        prefill = self.engine.fused_prefill(
            self.prompt,
            self.read,
            selector,
            rate,
            generator,
            corrector=correctors.build(corrector),
        )
        self.read = self.item.ready
        return _answered(self.engine, prefill, along)


def run(
    engine: Engine,
    prompt: Prompt,
    sink: Sequence[int],
    fronts: Sequence[tuple[int, ...]] = (),
    codec: BaseCodec | None = None,
) -> Gate:
    """Run gates 1 to 3 on one item, cut to ``MAX_TOKENS`` tokens of documents.

    KVs go through files in a temporary folder and the reader that evaluations use.

    Parameters
    ----------
    sink : tokens put in front of a chunk that is captured alone. fronts : those instead of it, see
        :func:`models.kv.capture.capture`.
    codec : of chunks in a store; None keeps an item in a file. Gate 1 goes through it. In the
        others chunks lie as they are: what is cached under a codec is not what the full prefill
        has, and selectors that run the lowest layers for all tokens put some of it right.
    """
    plain = codec and codecs.build(codecs.NONE)
    prompt = shorten(prompt)
    merged = Prompt.join(
        [], [prompt.ids[: prompt.question[0]]], prompt.ids[slice(*prompt.question)]
    )
    exact = engine.modules.dtype == torch.float32
    engine.cache.reserve(len(prompt) + ANSWER_TOKENS)
    tolerance, moved = bound(engine, prompt)

    def check(
        name: str,
        right: Callable[[], Outcome],
        stored: Callable[[], _Stored],
        rates: Sequence[float],
    ) -> Check:
        distances, equal = [0.0], True
        try:
            logits, tokens = right()
            for method, rate in product(METHODS, rates):
                other, answer = stored().fuse(*method, rate, tokens)
                distances.append(float((other - logits).abs().max()))
                equal &= answer == tokens
        except NotFinite:
            distances.append(math.nan)
            equal = False
        distance = max(distances) if all(map(math.isfinite, distances)) else math.inf
        return Check(name, distance, equal, distance <= tolerance and (equal or not exact))

    with TemporaryDirectory(prefix="kvfuse-gate-") as folder:

        @cache
        def coded() -> _Stored:
            return _Stored(engine, prompt, sink, fronts, Path(folder) / "coded", codec)

        @cache
        def parts() -> _Stored:
            return _Stored(engine, prompt, sink, fronts, Path(folder) / "parts", plain)

        @cache
        def whole() -> _Stored:
            return _Stored(engine, merged, sink, fronts, Path(folder) / "whole", plain)

        @cache
        def full() -> Outcome:
            return _answered(engine, engine.full_prefill(prompt))

        def reused() -> Outcome:
            return parts().fuse("full", correctors.NONE, 0.0)

        checks: tuple[Check, ...] = (
            check("r = 1 equals full prefill", full, coded, [1.0]),
            check("one chunk, any r equals full prefill", full, whole, RATES),
            check("r = 0 equals full reuse", reused, parts, [0.0]),
        )
    if engine.backend.startswith("flashinfer"):
        checks = (*checks, kernels_check(engine.modules, engine.backend))
    return Gate(len(prompt), filled(prompt), tolerance, checks, moved)


def bound(engine: Engine, prompt: Prompt) -> tuple[float, float]:
    """Largest distance in logits that rounding explains, and how far rounding moved them.

    In float32 a constant. In half precision the full prefill is run in other orders: rows in two
    passes, which gives products other shapes, and by masked SDPA. Where that moves nothing, a few
    units in the last place of the largest logit are allowed.
    """
    dtype = engine.modules.dtype
    widest = TOLERANCE[dtype]
    if dtype == torch.float32:
        return widest, 0.0
    n = len(prompt)
    orders = [(engine.backend, n // 2), (engine.backend, n // 3), ("sdpa", 0), ("sdpa", n // 2)]
    try:
        logits = engine.reordered(prompt, engine.backend, 0)
        others = [engine.reordered(prompt, *order) for order in orders]
    except NotFinite:
        return widest, 0.0  # the checks say so
    moved = max(float((other - logits).abs().max()) for other in others)
    least = torch.finfo(dtype).eps * float(logits.abs().max())
    return min(widest, MOVES * max(moved, least)), moved


def kernels_check(modules: Modules, backend: str) -> Check:
    """The back end's kernels at the model's heads in every case that a prompt can bring."""
    found = equivalence.run(
        modules.device,
        [modules.dtype],
        [modules.head_dim],
        KERNEL_LENGTHS,
        [modules.n_heads // modules.n_kv_heads],
        [backend],
        modules.n_kv_heads,
    )
    errors = [one.error for one in found]
    worst = max(errors) if all(map(math.isfinite, errors)) else math.inf
    return Check(KERNELS, worst, None, all(one.passed for one in found))


def filled(prompt: Prompt) -> int:
    """Chunks of a prompt that hold any token."""
    return sum(end > start for start, end in prompt.chunks)


def _answered(engine: Engine, prefill: Prefill, along: Sequence[int] = ()) -> Outcome:
    """A prefill's logits and its greedy answer.

    ``along`` is an answer to compare with: then what the model puts in the place of each of its
    tokens, which is the same answer or differs where the greedy one would, in one pass.
    """
    if along:
        return prefill.logits, engine.follow(prefill, along).argmax(-1).tolist()
    return prefill.logits, engine.decode(prefill, ANSWER_TOKENS, ()).tokens


def reader(kv: Tensor) -> Callable[[Stopwatch, Tensor], None]:
    """A reader for :meth:`Engine.fused_prefill` that copies from ``kv`` in memory."""

    def read(watch: Stopwatch, target: Tensor) -> None:
        target.copy_(kv)
        watch.lap("transfer")

    return read


def shorten(prompt: Prompt) -> Prompt:
    """Keep at least two chunks, cut so that all documents have at most ``MAX_TOKENS`` tokens."""
    segments = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    room, chunks = MAX_TOKENS, []
    share = max(1, MAX_TOKENS // 2)
    for chunk in segments[1:-1]:
        if room <= 0:
            break
        chunks.append(chunk[: min(room, share)])
        room -= len(chunks[-1])
    return Prompt.join(segments[0], chunks, segments[-1])
