"""Layers read by a thread: the same figures, nothing hidden, nothing left running, errors told."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from models import selectors
from models.errors import UserError
from models.gate import reader
from models.kv import disk, overlap, store
from models.kv.capture import capture
from models.kv.disk import Disk, SlowDisk, bytes_of
from models.kv.overlap import ReadAhead
from models.kv.reader import Unusable
from models.kv.threads import keep_to_one_core
from models.timing import PARTS, Stopwatch
from tests.conftest import random_prompt
from tests.models.test_store import REMEDY, meta_of
from tests.models.test_transfer import OnCuda, Streams

CPU = torch.device("cpu")
PROMPT = random_prompt(3, [70, 60], 12)
METHODS = ["full", "random", "debug", "debug:check=cached", "prophet", "blend"]


class Steps:
    """A source of small layers whose thread waits to be let go on, layer by layer."""

    layers, nbytes = 4, 400

    def __init__(self, free: int = 4, fails: BaseException | None = None) -> None:
        self.permits = threading.Semaphore(free)
        self.fails = fails
        self.log: list[str] = []

    def read(self, layer, out):
        assert self.permits.acquire(timeout=30)
        if self.fails and layer == 2:
            raise self.fails
        self.log.append(f"read {layer}")
        return layer

    def place(self, layer, what, out):
        assert what == layer
        out.fill_(layer + 1)

    def close(self):
        self.log.append("closed")


def target() -> torch.Tensor:
    return torch.zeros(2, 4, 3, 5, 8)


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "kv reader"]


@pytest.fixture
def item(llama, tmp_path):
    captured = capture(llama.engine.modules, PROMPT, [1], scores=store.SCORES)
    meta = meta_of(llama, PROMPT)
    store.write(tmp_path, captured, meta)
    return store.StoredItem(tmp_path, meta, REMEDY), captured


def fuse(llama, read, method: str = "debug"):
    with torch.inference_mode():
        llama.engine.cache.kv.fill_(7.0)
    generator = torch.Generator().manual_seed(0)
    return llama.engine.fused_prefill(PROMPT, read, selectors.build(method), 0.3, generator)


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_prefill_is_the_same_whoever_reads(llama, item, method, threaded):
    stored, captured = item
    stored.overlap = threaded
    found = fuse(llama, stored.cold, method)
    kv = llama.engine.cache.kv[:, :, :, : len(PROMPT)].clone()
    whole = fuse(llama, reader(captured.kv), method)
    assert torch.equal(found.logits, whole.logits)
    assert torch.equal(found.recomputed, whole.recomputed)
    assert torch.equal(kv, llama.engine.cache.kv[:, :, :, : len(PROMPT)])
    assert alive() == []
    again = fuse(llama, stored.ready, method)
    assert torch.equal(again.logits, whole.logits)


@pytest.mark.parametrize("threaded", [True, False])
def test_the_parts_are_the_whole(llama, item, threaded):
    stored, _ = item
    stored.overlap = threaded
    prefill = fuse(llama, stored.cold, "prophet")
    parts = prefill.parts_ms
    assert set(parts) == set(PARTS)
    assert all(ms >= 0 for ms in parts.values())
    assert sum(parts.values()) <= prefill.ttft_ms
    reading = stored.stream.reading
    assert reading.layers == len(llama.engine.modules.layers)
    assert reading.nbytes == store.kv_bytes(llama.engine.modules, len(PROMPT))
    assert reading.waited_ms <= parts["load"]
    assert 0 <= reading.visible <= 1
    if not threaded:
        assert reading.visible == 1


def test_a_layer_is_waited_for_and_prepared_once():
    source, out, prepared = Steps(free=1), target(), []
    stream = ReadAhead(source, out, Stopwatch(CPU), prepared.append).start()
    stream.arrive(0)
    stream.arrive(0)
    assert prepared == [0]
    assert (out[:, 0] == 1).all()
    threading.Timer(0.05, source.permits.release, [3]).start()
    stream.arrive(2)  # an early look at a later layer waits for all before it
    assert prepared == [0, 2]
    assert source.log[:3] == ["read 0", "read 1", "read 2"]
    stream.finish()
    assert prepared == [0, 2, 1, 3]
    assert source.log[3:] == ["read 3", "closed"]
    assert alive() == []


def test_waiting_is_charged_by_what_the_thread_did(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(overlap, "perf_counter", lambda: now[0])
    stream = ReadAhead(Steps(), target(), Stopwatch(CPU))
    stream._thread = threading.Thread()  # nothing runs: the times below are what it did
    stream._spans = [(0.0, 1.0, 1.5), (1.5, 2.5, 4.0), (4.0, 9.0, 10.0)]
    now[0] = 2.0  # waits for layer 1 from 2 to 4: half a second of reading, then decoding
    waits = iter([2.0, 4.0, 6.0, 10.0])
    monkeypatch.setattr(overlap, "perf_counter", lambda: next(waits))
    stream.arrive(1)
    assert stream.watch.parts["load"] == pytest.approx(500)
    assert stream.watch.parts["decode_kv"] == pytest.approx(1500)
    stream.arrive(2)
    assert stream.watch.parts["load"] == pytest.approx(3500)
    assert stream.watch.parts["decode_kv"] == pytest.approx(2500)
    reading = stream.reading
    assert reading.read_ms == pytest.approx(7000)
    assert reading.decode_ms == pytest.approx(3000)
    assert reading.visible == pytest.approx(0.5)
    assert reading.bytes_per_s == pytest.approx(300 / 7)


def test_without_a_thread_all_of_it_is_charged():
    source, out = Steps(), target()
    stream = ReadAhead(source, out, Stopwatch(CPU), threaded=False).start()
    assert source.log == []
    stream.arrive(1)
    assert source.log == ["read 0", "read 1"]
    stream.finish()
    reading = stream.reading
    assert reading.waited_ms == pytest.approx(reading.read_ms)
    assert reading.waited_decode_ms == pytest.approx(reading.decode_ms)
    assert source.log[-1] == "closed"


@pytest.mark.parametrize("threaded", [True, False])
def test_what_reading_raises_is_raised_where_the_layer_is_needed(threaded):
    error = UserError("kvs.pt is damaged; rebuild it: make precompute")
    stream = ReadAhead(Steps(fails=error), target(), Stopwatch(CPU), threaded=threaded).start()
    stream.arrive(1)
    for _ in range(2):
        with pytest.raises(UserError, match="damaged; rebuild it"):
            stream.arrive(2)
    stream.drain()
    stream.drain()
    assert stream.source.log.count("closed") == 1
    assert alive() == []


def test_a_reading_that_nobody_wants_any_more_ends():
    source = Steps(free=1)
    stream = ReadAhead(source, target(), Stopwatch(CPU)).start()
    stream.arrive(0)
    threading.Timer(0.05, source.permits.release).start()
    stream.drain()
    assert source.log[-1] == "closed"
    assert "read 3" not in source.log
    with pytest.raises(RuntimeError, match="after the reading had ended"):
        stream.arrive(3)


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_ends_early_is_told_in_one_line(llama, item, method, monkeypatch):
    stored, _ = item
    cut = stored.folder / store.KVS
    read = Disk.read

    def short(self, file, buffers, offset):
        if offset > cut.stat().st_size // 2:
            raise EOFError("the file ends early")
        read(self, file, buffers, offset)

    monkeypatch.setattr(Disk, "read", short)
    with pytest.raises(Unusable, match=r"kvs\.pt is damaged \(EOFError\); rebuild it"):
        fuse(llama, stored.cold, method)
    assert alive() == []
    monkeypatch.undo()
    assert torch.equal(fuse(llama, stored.cold).logits, fuse(llama, stored.ready).logits)


def test_a_prefill_that_fails_leaves_no_thread(llama, item, monkeypatch):
    stored, _ = item
    monkeypatch.setattr("models.prefilling.choose", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fuse(llama, stored.cold)
    assert alive() == []
    assert llama.engine.cache.stream is None


def test_a_file_that_is_replaced_meanwhile_is_refused(llama, item, monkeypatch):
    stored, captured = item
    other = capture(llama.engine.modules, PROMPT, [5])
    read = store.read

    def replaced(path, *rest):
        found = read(path, *rest)
        store.write(stored.folder, other, stored.expected)
        return found

    monkeypatch.setattr(store, "read", replaced)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(Unusable, match="damaged"):
        stored.cold(Stopwatch(CPU), torch.empty_like(captured.kv))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_is_read_into_in_its_pieces(tmp_path, dtype):
    rows = torch.randn(3, 5, 8).to(dtype)
    (tmp_path / "rows").write_bytes(bytes(9) + rows.view(torch.uint8).numpy().tobytes())
    cache = torch.full((3, 7, 8), 7.0).to(dtype)
    file = os.open(tmp_path / "rows", os.O_RDONLY)
    try:
        with pytest.raises(EOFError):
            Disk().read(file, bytes_of(cache[:, :6]), 9)
        cache.fill_(7.0)
        Disk().read(file, bytes_of(cache[:, :5]), 9)
    finally:
        os.close(file)
    assert torch.equal(cache[:, :5], rows)
    assert (cache[1, 6] == 7).all()
    assert len(bytes_of(torch.zeros(2, 3, 4))) == 1


def test_reads_that_come_in_parts_are_put_together(tmp_path, monkeypatch):
    content = os.urandom(1000)
    (tmp_path / "file").write_bytes(content)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: whole(file, [buffers[0][:7]], at))
    pieces = [bytearray(size) for size in (13, 0, 500, 1, 400)]
    file = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        Disk().read(file, [memoryview(piece) for piece in pieces], 50)
    finally:
        os.close(file)
    assert b"".join(pieces) == content[50:964]


def test_a_slow_disk_gives_its_rate_and_works_ahead_by_its_window(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(disk.os, "preadv", lambda file, buffers, at: sum(map(len, buffers)))
    slow = SlowDisk(rate=100, window=50)
    buffer = [memoryview(bytearray(200))]
    now[0] += 1000  # nothing was asked: nothing is ready
    for begun in (True, False):
        slow.begin()
        start = now[0]
        slow.read(0, buffer, 0)
        slow.read(0, buffer, 0)
        assert now[0] - start == pytest.approx(4), begun
    now[0] += 0.2  # it goes on meanwhile
    slow.read(0, buffer, 0)
    assert now[0] - start == pytest.approx(6)
    now[0] += 1000  # but no further than its window
    slow.read(0, buffer, 0)
    assert now[0] - start == pytest.approx(1006 + 1.5)


def test_a_thread_keeps_to_one_core_and_leaves_the_others_alone():
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        thread = threading.Thread(
            target=lambda: found.extend([keep_to_one_core(), torch.get_num_threads()])
        )
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 3
        assert found == [True, 1] or found == [False, 3]
    finally:
        torch.set_num_threads(threads)


def test_on_cuda_copies_run_beside_the_computation_and_are_waited_for(monkeypatch):
    streams, source = Streams(monkeypatch), Steps()
    out = target().as_subclass(OnCuda)
    watch = Stopwatch(CPU)
    stream = ReadAhead(source, out, watch, lambda layer: streams.log.append(("prepare", layer)))
    stream.start()
    assert streams.log[:2] == [("side", "waits for", "compute"), ("side", "owns", "target")]
    stream._thread.join()
    assert streams.log[2:] == [("side", "records", f"event {layer}") for layer in range(4)]
    streams.log.clear()
    stream.arrive(2)
    stream.arrive(2)
    assert streams.log == [("compute", "waits for", "event 2"), ("prepare", 2)]
    streams.log.clear()
    stream.drain()
    assert streams.log == [("compute", "waits for", "side")]
    assert stream.reading.layers == 4


def test_on_cuda_the_host_s_waiting_is_noted(monkeypatch):
    Streams(monkeypatch)
    source = Steps(free=0)
    stream = ReadAhead(source, target().as_subclass(OnCuda), Stopwatch(CPU)).start()
    threading.Timer(0.05, source.permits.release, [4]).start()
    stream.finish()
    assert stream.reading.waited_ms > 0


def test_on_cuda_a_file_comes_through_memory_that_stays_ready(item, monkeypatch):
    stored, captured = item
    Streams(monkeypatch)
    empty = torch.empty_like

    def unpinned(tensor, pin_memory=False):
        return empty(tensor)

    monkeypatch.setattr(torch, "empty_like", unpinned)
    out = torch.zeros_like(captured.kv).as_subclass(OnCuda)
    stored.cold(Stopwatch(CPU), out).finish()
    assert torch.equal(out.as_subclass(torch.Tensor), captured.kv)
    assert torch.equal(stored.memory, captured.kv)
    stored.ready(Stopwatch(CPU), out.zero_()).finish()
    assert torch.equal(out.as_subclass(torch.Tensor), captured.kv)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_layer_has_arrived_when_it_is_read(item):
    stored, captured = item
    out = torch.zeros_like(captured.kv, device="cuda")
    stream = stored.cold(Stopwatch(out.device), out)
    for layer in range(out.shape[1]):
        stream.arrive(layer)
        assert torch.equal(out[:, layer].cpu(), captured.kv[:, layer].cpu())
    stream.finish()
