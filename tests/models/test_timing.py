"""Who is charged for what, on a clock that the test moves and a device that works behind."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from models import timing
from models.correctors import BaseCorrector
from models.gate import reader
from models.selectors import BaseSelector
from models.timing import PARTS, Stopwatch
from tests.models.selector_references import captured, shaped

CPU = torch.device("cpu")


class Machine:
    """Seconds pass when somebody works, or waits for what a device was asked to do."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        self.computing = self.copying = 0.0  # asked for, not done
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(timing, "synchronize", self.wait)
        stream = SimpleNamespace(synchronize=self.wait_for_computing)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)

    def work(self, ms: float) -> None:
        self.now += ms / 1e3

    def wait_for_computing(self) -> None:
        self.now += self.computing / 1e3
        self.computing = 0.0

    def wait(self, device) -> None:
        self.now += max(self.computing, self.copying) / 1e3
        self.computing = self.copying = 0.0


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


def parts(**charged: float) -> dict[str, float]:
    return pytest.approx({part: charged.get(part, 0.0) for part in PARTS})


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_work_is_charged_to_the_part_that_asked_for_it(machine, kind):
    """Also where the device does it later: every cut waits first, and then looks at the clock."""
    machine.computing = 50.0  # of whatever came before the watch
    watch = Stopwatch(SimpleNamespace(type=kind))
    machine.work(1)
    machine.computing += 5.0
    watch.lap("select")
    machine.computing += 7.0
    machine.work(2)
    watch.lap("recompute")
    watch.lap("head")
    machine.work(4)
    watch.lap("select")
    assert watch.parts == parts(select=10, recompute=9)


def test_what_is_done_aside_is_charged_to_its_own_part(machine):
    watch = Stopwatch(CPU)
    machine.work(3)
    for ms in (4, 5):
        with watch.aside("correct"):
            machine.work(ms)
        machine.work(1)
    watch.lap("recompute")
    machine.work(7)
    watch.lap("head")
    assert watch.parts == parts(recompute=5, correct=9, head=7)
    assert watch.total() == pytest.approx(21)


def test_what_is_aside_within_what_is_aside_is_charged_once(machine):
    watch = Stopwatch(CPU)
    machine.work(3)
    with watch.aside("rotate"):
        machine.work(4)
        with watch.aside("correct"):
            machine.work(5)
        machine.work(2)
        watch.charge("load", 2)
    watch.lap("recompute")
    assert watch.parts == parts(recompute=3, rotate=4, correct=5, load=2)
    assert watch.total() == pytest.approx(14)


def test_on_cuda_what_is_done_aside_is_told_by_events_and_nothing_waits(machine, monkeypatch):
    """A layer's correction must not stop the device: its events are looked at at the next cut."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream) -> None:
            self.at = machine.now * 1e3 + machine.computing

        def elapsed_time(self, end) -> float:
            assert not machine.computing, "asked before it has happened"
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(SimpleNamespace(type="cuda"))
    machine.computing += 5.0
    begun = machine.now
    for _ in range(2):
        with watch.aside("correct"):
            machine.computing += 3.0
        machine.computing += 10.0
    assert machine.now == begun
    watch.lap("recompute")
    machine.computing += 7.0
    watch.lap("head")
    assert watch.parts == parts(recompute=25, correct=6, head=7)


def test_the_total_is_measured_and_not_summed(machine):
    watch = Stopwatch(CPU)
    machine.work(3)
    watch.lap("load")
    machine.work(2)  # charged to nobody
    machine.computing += 6.0
    assert watch.total() == pytest.approx(11)
    assert watch.parts == parts(load=3)


def test_layers_that_still_come_in_are_charged_where_they_are_waited_for(machine):
    watch = Stopwatch(SimpleNamespace(type="cuda"))
    machine.copying = 30.0
    machine.computing += 4.0
    watch.lap("rotate")
    assert watch.parts == parts(rotate=4)
    assert watch.total() == pytest.approx(34)


@pytest.mark.parametrize(("kind", "waits"), [("cpu", []), ("cuda", ["cuda"]), ("mps", ["mps"])])
def test_a_device_is_waited_for_by_its_own_means(monkeypatch, kind, waits):
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: seen.append("mps"))
    timing.synchronize(SimpleNamespace(type=kind))
    assert seen == waits


@dataclass
class Slow(BaseSelector):
    """Takes its time, and looks at a layer if asked to."""

    machine: Machine
    layer: int | None = None

    def select(self, probe):
        self.machine.work(11)
        if self.layer is not None:
            probe.check(self.layer)
        return probe.candidates[: probe.budget]


@pytest.mark.parametrize(("layer", "dense"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_every_step_of_a_fused_prefill_is_charged(llama, machine, layer, dense):
    """Layers cost 5 ms, the head 7: those below a check layer belong to the choice."""
    prompt, engine = shaped("usual"), llama.engine
    stored = reader(captured(llama, prompt).kv)
    layers = engine.modules.layers
    handles = [m.register_forward_hook(lambda *_: machine.work(5)) for m in layers]
    handles.append(engine.modules.model.lm_head.register_forward_hook(lambda *_: machine.work(7)))

    def read(watch, target):
        machine.work(2)
        watch.lap("load")
        machine.work(3)
        stored(watch, target)

    machine.work(1000)
    try:
        prefill = engine.fused_prefill(prompt, read, Slow(machine, layer), 0.3, torch.Generator())
        full = engine.full_prefill(prompt)
    finally:
        for handle in handles:
            handle.remove()
    rest = len(layers) - dense
    assert prefill.parts_ms == parts(
        load=2, transfer=3, select=11 + 5 * dense, recompute=5 * rest, head=7
    )
    assert prefill.ttft_ms == pytest.approx(2 + 3 + 11 + 5 * len(layers) + 7)
    assert full.parts_ms == parts(recompute=5 * len(layers), head=7)
    assert full.ttft_ms == pytest.approx(5 * len(layers) + 7)


def test_a_token_is_charged_its_own_step(llama, machine):
    prompt, engine = shaped("usual"), llama.engine
    held = engine.full_prefill(prompt)
    handle = engine.modules.layers[0].register_forward_hook(lambda *_: machine.work(5))
    answer = engine.decode(held, 4, ())
    handle.remove()
    assert answer.step_ms == pytest.approx([5, 5, 5])


def test_one_row_goes_through_the_head(family):
    """All rows through it would be most of a short prefill, for ours as for the library's."""
    prompt, engine, rows = shaped("usual"), family.engine, []
    read = reader(captured(family, prompt).kv)
    handle = engine.modules.model.lm_head.register_forward_hook(
        lambda module, args, out: rows.append(args[0].numel() // args[0].shape[-1])
    )
    engine.full_prefill(prompt)
    idle = Slow(SimpleNamespace(work=lambda ms: None))
    engine.fused_prefill(prompt, read, idle, 0.5, torch.Generator())
    handle.remove()
    assert rows == [1, 1]


def test_a_correctors_time_is_a_part_of_its_own(llama, machine):
    """2 ms a chunk and layer, but for the first layer, whose rows are exact."""

    class Corrects(BaseCorrector):
        def correct(self, change):
            machine.work(2)
            return {}

    prompt, engine = shaped("usual"), llama.engine
    layers = engine.modules.layers
    handles = [m.register_forward_hook(lambda *_: machine.work(5)) for m in layers]
    stored, seed = reader(captured(llama, prompt).kv), torch.Generator().manual_seed(0)
    try:
        prefill = engine.fused_prefill(
            prompt, stored, Slow(machine), 0.3, seed, corrector=Corrects()
        )
    finally:
        for handle in handles:
            handle.remove()
    chunks = 1  # the candidates' first third lies in one chunk
    assert prefill.parts_ms == parts(
        select=11, recompute=5 * len(layers), correct=2 * chunks * (len(layers) - 1)
    )
    assert prefill.ttft_ms == pytest.approx(sum(prefill.parts_ms.values()))
