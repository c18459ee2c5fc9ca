"""Layers arrive whole, once and in time, whether or not the device has streams."""

import contextlib

import pytest
import torch

from models import selectors
from models.gate import reader
from models.kv import transfer
from models.kv.capture import capture
from models.kv.transfer import LayerStream
from models.timing import Stopwatch


def source_and_target(n: int = 5, capacity: int = 9):
    source = torch.randn(2, 4, 3, n, 8, generator=torch.Generator().manual_seed(0))
    buffer = torch.full((2, 4, 3, capacity, 8), 7.0)
    return source, buffer, buffer[:, :, :, :n]


def test_all_layers_arrive_and_nothing_else_is_touched():
    source, buffer, target = source_and_target()
    stream = LayerStream(source, target)
    assert stream.start() is stream
    stream.finish()
    assert torch.equal(target, source)
    assert (buffer[:, :, :, 5:] == 7).all()


def test_a_layer_is_prepared_once_when_it_arrives():
    source, _, target = source_and_target()
    prepared = []

    def double(layer: int) -> None:
        assert torch.equal(target[:, layer], source[:, layer])
        target[0, layer] *= 2
        prepared.append(layer)

    stream = LayerStream(source, target, double).start()
    for layer in (0, 0, 2, 1, 2):
        stream.arrive(layer)
    stream.start()
    assert prepared == [0, 2, 1]
    stream.finish()
    assert prepared == [0, 2, 1, 3]
    assert torch.equal(target[0], source[0] * 2)
    assert torch.equal(target[1], source[1])


def test_arriving_starts_what_was_not_started():
    source, _, target = source_and_target()
    LayerStream(source, target).arrive(1)
    assert torch.equal(target[:, 1], source[:, 1])


@pytest.mark.parametrize(
    "other", [torch.zeros(2, 4, 3, 6, 8), torch.zeros(2, 4, 3, 5, 8, dtype=torch.bfloat16)]
)
def test_what_does_not_fit_is_refused(other):
    source, _, _ = source_and_target()
    with pytest.raises(ValueError, match="does not fit"):
        LayerStream(source, other)


class Streams:
    """A device's streams as a log: what is asked of which, in order."""

    def __init__(self, monkeypatch):
        self.log: list[tuple] = []
        self.current = "compute"
        log = self.log
        outer = self

        class Stream:
            def __init__(self, name):
                self.name = name

            def wait_stream(self, other):
                log.append((self.name, "waits for", other.name))

            def wait_event(self, event):
                log.append((self.name, "waits for", event.name))

        class Event:
            made = 0

            def __init__(self):
                self.name = f"event {Event.made}"
                Event.made += 1

            def record(self, stream):
                log.append((stream.name, "records", self.name))

        side = Stream("side")

        @contextlib.contextmanager
        def stream(chosen):
            outer.current = chosen.name
            try:
                yield
            finally:
                outer.current = "compute"

        monkeypatch.setattr(transfer, "side_stream", lambda device: side)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(self.current))
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda tensor, s: log.append((s.name, "owns", "target"))
        )


def test_copies_run_beside_the_computation_and_wait_for_what_came_before(monkeypatch):
    source, _, target = source_and_target()
    streams = Streams(monkeypatch)
    stream = LayerStream(source, target, lambda layer: streams.log.append(("prepare", layer)))
    stream._enqueue(torch.device("cuda"))
    stream.started = True
    assert streams.current == "compute"
    assert streams.log[:2] == [("side", "waits for", "compute"), ("side", "owns", "target")]
    assert streams.log[2:] == [("side", "records", f"event {layer}") for layer in range(4)]
    assert torch.equal(target, source)
    streams.log.clear()
    stream.arrive(2)
    stream.arrive(2)
    assert streams.log == [("compute", "waits for", "event 2"), ("prepare", 2)]


class OnCuda(torch.Tensor):
    """A tensor in host memory that says it lies on a GPU."""

    device = property(lambda self: torch.device("cuda"))


def test_what_was_begun_is_waited_for_though_nobody_wants_it(monkeypatch):
    source, _, target = source_and_target()
    streams = Streams(monkeypatch)
    stream = LayerStream(source, target.as_subclass(OnCuda))
    stream.drain()
    assert streams.log == []
    stream.start()
    streams.log.clear()
    stream.drain()
    assert streams.log == [("compute", "waits for", "side")]


def test_copies_that_break_off_are_waited_for(monkeypatch):
    source, _, target = source_and_target()
    streams, copy = Streams(monkeypatch), torch.Tensor.copy_

    def copy_one_layer(into, *args, **kwargs):
        if ("side", "records", "event 0") in streams.log:
            raise RuntimeError("no more")
        return copy(into, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_one_layer)
    with pytest.raises(RuntimeError, match="no more"):
        LayerStream(source, target.as_subclass(OnCuda)).start()
    assert streams.log[-1] == ("compute", "waits for", "side")


def test_without_streams_there_is_nothing_to_wait_for():
    source, _, target = source_and_target()
    stream = LayerStream(source, target)
    stream.drain()
    stream.start().drain()
    assert torch.equal(target, source)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_layer_has_arrived_when_it_is_read():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 8, 4, 4096, 128, generator=generator).pin_memory()
    target = torch.zeros(2, 8, 4, 5000, 128, device="cuda")[:, :, :, :4096]
    stream = LayerStream(source, target, lambda layer: target[0, layer].mul_(2)).start()
    seen = []
    for layer in range(8):
        stream.arrive(layer)
        seen.append(target[:, layer].clone())
    for layer, copy in enumerate(seen):
        assert torch.equal(copy[0].cpu(), source[0, layer] * 2)
        assert torch.equal(copy[1].cpu(), source[1, layer])


@pytest.mark.parametrize("method", ["full", "random", "debug", "debug:check=cached", "prophet"])
def test_a_prefill_over_a_stream_is_that_over_a_copy(family, prompt, method):
    kv = capture(family.engine.modules, prompt, [1]).kv

    def streamed(watch: Stopwatch, target: torch.Tensor) -> LayerStream:
        return LayerStream(kv, target)  # not started: a layer comes when it is asked for

    def fuse(read) -> torch.Tensor:
        with torch.inference_mode():
            family.engine.cache.kv.fill_(7.0)
        selector, generator = selectors.build(method), torch.Generator().manual_seed(0)
        prefill = family.engine.fused_prefill(prompt, read, selector, 0.3, generator)
        return torch.cat([prefill.logits, prefill.recomputed])

    assert torch.equal(fuse(streamed), fuse(reader(kv)))
