"""KVs from disk into the cache, layer by layer, by a thread, while earlier layers compute."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from models.kv import transfer
from models.kv.threads import keep_to_one_core
from models.timing import Stopwatch

PARTS = ("load", "decode_kv")  # of a TTFT, as reading and decoding are charged


class LayerSource(Protocol):
    """What lies on a disk or in memory, layer by layer.

    Attributes
    ----------
    layers : how many. nbytes : of all of them, as they lie there.
    """

    layers: int
    nbytes: int

    def read(self, layer: int, out: Tensor) -> Any:
        """Bring a layer's bytes into memory: into ``out`` where they lie as the cache has them.

        Layers come in order. What is returned may lie in memory that the next call uses again.

        Parameters
        ----------
        out : ``[2, H_kv, N, D]`` of the cache.

        Raises
        ------
        UserError : they are missing or damaged, in the words of whoever reads them whole.
        """

    def place(self, layer: int, what: Any, out: Tensor) -> None:
        """Decode what :meth:`read` returned into ``out``; on CUDA in the current stream."""

    def close(self) -> None:
        """Nothing more is read; called once, behind everything that is timed."""


@dataclass(frozen=True)
class Reading:
    """What reading one item took, and what of that was waited for.

    Attributes
    ----------
    nbytes : as they lie on the disk. layers : that were brought in.
    read_ms, decode_ms : spent on them, by whichever thread.
    waited_ms : of the prefill's thread, for reading; the rest of ``read_ms`` was hidden.
    waited_decode_ms : the same for decoding.
    """

    nbytes: int
    layers: int
    read_ms: float
    decode_ms: float
    waited_ms: float
    waited_decode_ms: float

    @property
    def bytes_per_s(self) -> float | None:
        """What the disk reached while it was read from."""
        return self.nbytes / self.read_ms * 1e3 if self.read_ms else None

    @property
    def visible(self) -> float | None:
        """Share of the reading time that was waited for."""
        return min(1.0, self.waited_ms / self.read_ms) if self.read_ms else None


class ReadAhead:
    """Brings a source into ``target``, and says when each layer is there.

    It takes the place of a :class:`models.kv.transfer.LayerStream`. A thread of its own reads and
    decodes one layer after the other, as fast as it can; :meth:`arrive` waits for it, and charges
    the time to ``load`` or ``decode_kv``, by what the thread did meanwhile. Without a thread a
    layer is read and decoded when it is asked for, and all of it is charged.

    Parameters
    ----------
    target : ``[2, L, H_kv, N, D]``, a view of the cache.
    prepare : called once for every layer, when it has arrived and before it is used; for the
        rotation of its keys.
    """

    def __init__(
        self,
        source: LayerSource,
        target: Tensor,
        watch: Stopwatch,
        prepare: Callable[[int], None] | None = None,
        threaded: bool = True,
    ) -> None:
        self.source = source
        self.target = target
        self.watch = watch
        self.prepare = prepare
        self.threaded = threaded
        self._arrived: set[int] = set()
        self._spans: list[tuple[float, float, float]] = []  # reading begun, decoding begun, done
        self._events: list[torch.cuda.Event] = []
        self._waited = [0.0, 0.0]
        self._side: torch.cuda.Stream | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._stop = False
        self._closed = False
        self._news = threading.Condition()

    def start(self) -> ReadAhead:
        """Begin to read, where a thread does it; returns itself."""
        if self._thread or not self.threaded or self._closed:
            return self
        if self.target.device.type == "cuda":
            self._side = transfer.side_stream(self.target.device)
            # An earlier prefill may still read what the copies overwrite.
            self._side.wait_stream(torch.cuda.current_stream(self.target.device))
            self.target.record_stream(self._side)
        self._thread = threading.Thread(target=self._run, name="kv reader", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            keep_to_one_core()
            on_side = torch.cuda.stream(self._side) if self._side else contextlib.nullcontext()
            with torch.inference_mode(), on_side:
                for layer in range(self.source.layers):
                    if self._stop:
                        return
                    self._bring(layer)
        except BaseException as error:  # noqa: BLE001 - raised where the layer is waited for
            with self._news:
                self._error = error
                self._news.notify_all()

    def _bring(self, layer: int, charged: bool = False) -> None:
        """Read and decode the next layer in the thread that calls, which may be the prefill's."""
        aside = self.watch.aside if charged else contextlib.nullcontext
        out = self.target[:, layer]
        begun = perf_counter()
        with aside(PARTS[0]):
            what = self.source.read(layer, out)
        read = perf_counter()
        with aside(PARTS[1]):
            self.source.place(layer, what, out)
        placed = perf_counter()
        if self._side is not None:
            event = torch.cuda.Event()
            event.record(self._side)
            self._events.append(event)
        if charged:
            self._note(begun, read, placed)
        with self._news:
            self._spans.append((begun, read, placed))
            self._news.notify_all()

    def arrive(self, layer: int) -> None:
        """Wait for a layer, then prepare it; once, however often asked.

        Raises
        ------
        Whatever reading it raised.
        """
        if layer in self._arrived:
            return
        if self.threaded:
            self.start()
            self._wait(layer)
        else:
            while len(self._spans) <= layer:
                self._bring(len(self._spans), charged=True)
        self._arrived.add(layer)
        if self.prepare is not None:
            with self.watch.aside("rotate"):
                self.prepare(layer)

    def _wait(self, layer: int) -> None:
        """Wait until a layer is there; on CUDA, events tell how long the device did."""
        begun = perf_counter()
        if self._side is None:
            self._until(layer)
        else:
            with self.watch.aside(PARTS[0]):
                self._until(layer)
                current = torch.cuda.current_stream(self.target.device)
                current.wait_event(self._events[layer])
        done = perf_counter()
        for reading, decoding, placed in self._spans[: layer + 1]:
            if placed > begun:
                cuts = [min(max(cut, begun), done) for cut in (reading, decoding, placed)]
                self._note(*cuts)
                if self._side is None:
                    for part, (since, until) in zip(PARTS, pairwise(cuts), strict=True):
                        self.watch.charge(part, (until - since) * 1e3)

    def _until(self, layer: int) -> None:
        with self._news:
            self._news.wait_for(lambda: len(self._spans) > layer or self._error or self._closed)
        if len(self._spans) <= layer:
            raise self._error or RuntimeError("layers were asked for after the reading had ended")

    def _note(self, reading: float, decoding: float, placed: float) -> None:
        """Time of the prefill's thread between these."""
        self._waited[0] += (decoding - reading) * 1e3
        self._waited[1] += (placed - decoding) * 1e3

    def finish(self) -> None:
        """Let all layers arrive, and end the reading."""
        for layer in range(self.source.layers):
            self.arrive(layer)
        self.drain()

    def drain(self) -> None:
        """End the reading, wanted or not, and wait until it has ended."""
        if self._closed:
            return
        self._stop = True
        if self._thread is not None:
            self._thread.join()
        self._closed = True
        if self._side is not None:
            torch.cuda.current_stream(self.target.device).wait_stream(self._side)
        self.source.close()

    @property
    def reading(self) -> Reading:
        """What it took so far."""
        read = sum(decoding - begun for begun, decoding, _ in self._spans) * 1e3
        decode = sum(placed - decoding for _, decoding, placed in self._spans) * 1e3
        share = len(self._spans) / self.source.layers
        nbytes = round(self.source.nbytes * share)
        return Reading(nbytes, len(self._spans), read, decode, *self._waited)
