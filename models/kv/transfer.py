"""KVs from host memory into the cache, layer by layer, while earlier layers compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor


class Arriving(Protocol):
    """Layers that come into the cache one by one, each once; see :class:`LayerStream`."""

    prepare: Callable[[int], None] | None

    def arrive(self, layer: int) -> None:
        """Return when a layer is there and prepared."""

    def finish(self) -> None:
        """Let all layers arrive."""

    def drain(self) -> None:
        """End what was begun, and wait for that end; for use when a prefill ends or fails."""


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies: one a device, so that what copies allocate is found again."""
    return torch.cuda.Stream(device)


class LayerStream:
    """Brings ``source`` into ``target``, one layer after the other, and says when each is there.

    On a device without streams all layers are copied by :meth:`start`.

    Parameters
    ----------
    source : ``[2, L, H_kv, N, D]``, contiguous; in pinned memory, or the copies overlap nothing.
    target : the same shape, a view of the cache.
    prepare : called once for every layer, when it has arrived and before it is used, in the
        caller's stream; for the rotation of its keys.
    ahead : copies are asked for so many layers before they are needed, the first ones at once. None
        asks for all at once: nothing computes until the last of them has been asked for.

    Raises
    ------
    ValueError : shapes or dtypes differ.
    """

    def __init__(
        self,
        source: Tensor,
        target: Tensor,
        prepare: Callable[[int], None] | None = None,
        ahead: int | None = None,
    ) -> None:
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(
                f"{source.dtype} {list(source.shape)} does not fit into "
                f"{target.dtype} {list(target.shape)}"
            )
        self.source = source
        self.target = target
        self.prepare = prepare
        self.ahead = ahead
        self.started = False
        self._side: torch.cuda.Stream | None = None
        self._events: list[torch.cuda.Event] = []
        self._arrived: set[int] = set()

    def start(self) -> LayerStream:
        """Begin to copy, once what the device was asked for so far is done; returns itself."""
        if self.started:
            return self
        self.started = True
        if self.target.device.type == "cuda":
            try:
                self._enqueue(self.target.device)
            except BaseException:
                self.drain()
                raise
        else:
            self.target.copy_(self.source)
        return self

    def _enqueue(self, device: torch.device) -> None:
        self._side = side = side_stream(device)
        # An earlier prefill may still read what the copies overwrite.
        side.wait_stream(torch.cuda.current_stream(device))
        self.target.record_stream(side)
        self._enqueue_to(self.ahead)

    def _enqueue_to(self, end: int | None) -> None:
        """Ask for the layers below ``end`` that were not asked for, or for all."""
        side = self._side
        layers = self.target.shape[1]
        if side is None or len(self._events) == layers:
            return
        with torch.cuda.stream(side):
            for layer in range(len(self._events), layers if end is None else min(end, layers)):
                # A layer's keys lie in one piece in the source, and its values in another. Taken
                # together they would be gathered on the host first.
                for kind in range(self.target.shape[0]):
                    self.target[kind, layer].copy_(self.source[kind, layer], non_blocking=True)
                event = torch.cuda.Event()
                event.record(side)
                self._events.append(event)

    def arrive(self, layer: int) -> None:
        """Let the current stream wait for a layer, then prepare it; once, however often asked."""
        if layer in self._arrived:
            return
        self.start()
        self._enqueue_to(None if self.ahead is None else layer + 1 + self.ahead)
        if self._events:
            torch.cuda.current_stream(self.target.device).wait_event(self._events[layer])
        self._arrived.add(layer)
        if self.prepare is not None:
            self.prepare(layer)

    def finish(self) -> None:
        """Let all layers arrive."""
        for layer in range(self.target.shape[1]):
            self.arrive(layer)

    def drain(self) -> None:
        """Let the current stream wait for every copy that was begun, wanted or not."""
        if self._side is not None:
            torch.cuda.current_stream(self.target.device).wait_stream(self._side)
