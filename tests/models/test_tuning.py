"""What may be switched on gives the same figures; on a CPU the same steps, without a device."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models import engine as engine_module
from models import gate, tuning
from models.attention import paged
from models.decoding.graph import BUCKET, StaticRow, Steps, keys_for
from models.engine import Engine
from models.errors import UserError
from models.kv import store, transfer
from models.kv.capture import capture
from models.kv.transfer import LayerStream
from models.selectors import make
from models.timing import Stopwatch
from tests.conftest import build, random_prompt
from tests.models.library_states import SINK
from tests.models.test_flashinfer import fake  # noqa: F401 - a fixture


def test_an_unknown_switch_is_told():
    with pytest.raises(UserError, match="FAST=warp is no switch: use events, plan"):
        tuning.check(["events", "warp"])


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_steps_over_fixed_keys_decode_what_plain_ones_do(family, prompt, monkeypatch):
    """Also where rows behind the answer hold something, and when decoding starts over."""
    plain, fast = Engine(build(family)), Engine(build(family), fast=["graph"])
    full = [one.full_prefill(prompt) for one in (plain, fast)]
    fast.cache.reserve(2 * BUCKET)
    full[1] = fast.full_prefill(prompt)
    fast.cache.kv[:, :, :, len(prompt) :] = 7.0
    for count in (12, 5, 20):
        right = plain.decode(full[0], count, ())
        found = fast.decode(full[1], count, ())
        assert found.tokens == right.tokens
        assert len(found.step_ms) == count - 1
        assert fast.cache.length == plain.cache.length
    stop = right.tokens[4]
    assert fast.decode(full[1], 20, (stop,)).tokens == plain.decode(full[0], 20, (stop,)).tokens
    again = random_prompt(5, [30, 40], 9, seed=3)
    assert (
        fast.decode(fast.full_prefill(again), 9, ()).tokens
        == plain.decode(plain.full_prefill(again), 9, ()).tokens
    )


def test_the_keys_of_steps_grow_in_buckets():
    assert [keys_for(n) for n in (1, BUCKET, BUCKET + 1)] == [BUCKET, BUCKET, 2 * BUCKET]


def test_steps_do_not_fit_a_larger_buffer_at_the_same_address():
    engine = Engine(build("llama"))
    n_layers, n_heads, dim = engine.cache.shape
    memory = torch.zeros(2, n_layers, n_heads, 2 * BUCKET, dim)
    small = memory.flatten()[: memory.numel() // 2].view(2, n_layers, n_heads, BUCKET, dim)
    engine.cache.kv = small
    steps = Steps(engine.modules, engine.cache, BUCKET)
    assert steps.fits(BUCKET)
    assert not steps.fits(2 * BUCKET)
    engine.cache.kv = memory
    assert not steps.fits(BUCKET)


@pytest.mark.parametrize("heads", [2, 6, 14])
def test_a_static_row_sees_nothing_behind_its_position(heads):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, heads, 1, 16, generator=generator)
    key, value = torch.randn(2, 1, 2, 64, 16, generator=generator)
    position = torch.tensor([40])
    got = StaticRow(position, 64).attend(query, key, value, 0.2)
    group = heads // 2
    for head in range(heads):
        k, v = key[0, head // group, :41], value[0, head // group, :41]
        weights = torch.softmax(query[0, head, 0] @ k.T * 0.2, -1)
        assert torch.allclose(got[0, 0, head], weights @ v, atol=1e-5)


@pytest.mark.parametrize("fast", [["graph"], ["compile"], sorted(tuning.SWITCHES)])
def test_the_gate_covers_what_is_switched_on(prompt, fast, monkeypatch):
    monkeypatch.setattr(engine_module, "COMPILER", "eager")
    engine = Engine(build("llama"), fast=fast)
    assert gate.run(engine, prompt, SINK).passed


def test_parts_are_compiled_once_for_all_layers(monkeypatch):
    """Not once a layer: at some number of them PyTorch would give up and run them as they are."""
    made = []

    def compiler(graph, inputs):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(engine_module, "COMPILER", compiler)
    engine = Engine(build("llama", num_hidden_layers=12), fast=["compile"])
    before = len(made)
    assert 0 < before <= 12
    prefill = engine.full_prefill(random_prompt(5, [60, 71], 9))
    engine.decode(prefill, 4, ())
    assert len(made) == before, "something was compiled within a clock"


def test_a_budget_is_cut_to_whole_tiles():
    for budget, size, others, tile in product(range(0, 41, 3), (41, 60), (1, 7, 16), (1, 8, 16)):
        found = tuning.whole_tiles(budget, size, others, tile)
        fits = [k for k in range(1, budget + 1) if (k + others) % tile == 0]
        assert found == max(fits, default=budget)
    assert tuning.whole_tiles(60, 60, 7, 16) == 60, "all rows are wanted"


def test_rows_that_run_fill_whole_tiles(monkeypatch):
    """The best of them, as far as they reach."""
    monkeypatch.setattr(tuning, "TILE", 16)
    prompt = random_prompt(9, [70, 70, 33], 17)
    found = {}
    for fast in ((), ("tiles",)):
        engine = Engine(build("llama"), fast=fast)
        stored = gate.reader(capture(engine.modules, prompt, SINK).kv)
        for rate in (0.0, 0.3, 1.0):
            prefill = engine.fused_prefill(
                prompt, stored, make("debug"), rate, torch.Generator().manual_seed(0)
            )
            found[fast, rate] = set(prefill.recomputed.tolist())
    for rate in (0.0, 1.0):
        assert found[("tiles",), rate] == found[(), rate]
    assert len(found[(), 0.3]) == 51 + 17
    assert len(found[("tiles",), 0.3]) == 64
    assert found[("tiles",), 0.3] < found[(), 0.3]


def test_a_plan_is_made_before_the_first_layer(fake, prompt, monkeypatch):  # noqa: F811
    planned = []
    plan = paged.PagedRows.plan
    monkeypatch.setattr(paged.PagedRows, "plan", lambda *a: planned.append("plan") or plan(*a))
    engine = Engine(build("llama"), fast=["plan"])
    engine.backend = "flashinfer:paged"
    attend = paged.PagedRows.attend
    monkeypatch.setattr(
        paged.PagedRows, "attend", lambda *a: planned.append("attend") or attend(*a)
    )
    assert gate.run(engine, prompt, SINK).passed
    assert planned[:2] == ["plan", "attend"]


class Clock:
    """A device's timeline: events hold the moment at which the host asked for them."""

    now = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = None

        def record(self, stream) -> None:
            self.at = Clock.now

        def elapsed_time(self, end) -> float:
            return end.at - self.at


def test_parts_told_by_events_add_up_and_nothing_waits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Clock.Event)
    waits = []
    stream = SimpleNamespace(synchronize=lambda: waits.append("stream"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append("device"))
    Clock.now = 5.0
    watch = Stopwatch(SimpleNamespace(type="cuda"), by_events=True)
    for part, ms, aside in (("rotate", 2, 0), ("recompute", 9, 3), ("head", 4, 0)):
        if aside:
            with watch.aside("correct"):
                Clock.now += aside
        Clock.now += ms
        watch.lap(part)
    assert waits == ["device"]
    watch.total()
    found = {part: ms for part, ms in watch.parts.items() if ms}
    assert found == {"rotate": 2, "recompute": 9, "head": 4, "correct": 3}


class Stream:
    """Takes the place of a CUDA stream and of its context."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        pass


@pytest.mark.parametrize(("fast", "ahead"), [((), None), (("ahead",), tuning.AHEAD)])
def test_an_item_in_memory_is_asked_for_as_the_switch_says(monkeypatch, fast, ahead):
    asked = []

    class Stream:
        def __init__(self, source, target, ahead) -> None:
            asked.append(ahead)

        def start(self):
            return self

    monkeypatch.setattr(store, "LayerStream", Stream)
    item = store.StoredItem(Path("item"), {}, "", ahead=tuning.ahead(fast), memory=torch.zeros(1))
    watch = SimpleNamespace(lap=lambda part: None)
    item.ready(watch, SimpleNamespace(device=torch.device("cuda")))
    assert asked == [ahead]


@pytest.mark.parametrize(
    ("ahead", "asked"), [(None, [6, 6, 6, 6]), (0, [0, 1, 2, 6]), (2, [2, 3, 4, 6])]
)
def test_copies_are_asked_for_as_far_ahead_as_told(monkeypatch, ahead, asked):
    """Whatever is asked for when, every layer holds its own when it has arrived."""
    monkeypatch.setattr(transfer, "side_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    event = SimpleNamespace(record=lambda stream: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    source = torch.randn(2, 6, 2, 5, 4)
    target = torch.zeros_like(source)
    stream = LayerStream(source, target, ahead=ahead)
    stream.started = True
    stream._enqueue(torch.device("cpu"))
    found = [len(stream._events)]
    for layer in (0, 1, 5):
        stream.arrive(layer)
        assert torch.equal(target[:, layer], source[:, layer])
        found.append(len(stream._events))
    assert found == asked
    assert torch.equal(target, source)
