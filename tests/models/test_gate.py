"""The gate that a model passes before any figure of it: what it runs, and when it fails."""

import pytest
import torch

from models import gate
from models.engine import Engine
from models.errors import UserError
from models.kv import store
from models.kv.transfer import LayerStream
from tests.conftest import build, random_prompt
from tests.models.library_states import SINK


def test_the_gate_that_guards_results_passes_and_can_fail(llama, prompt):
    outcome = gate.run(llama.engine, prompt, SINK)
    assert outcome.passed, outcome
    assert len(outcome.checks) == 3
    wrong_sink_is_caught = random_prompt(9, [64, 64], 12)
    broken = llama.engine.modules.layers[2].self_attn.v_proj
    handle = broken.register_forward_hook(
        lambda m, a, out: out + (0.5 if out.shape[1] < 60 else 0.0)
    )
    try:
        assert not gate.run(llama.engine, wrong_sink_is_caught, SINK).passed
    finally:
        handle.remove()


def test_the_gate_reads_kvs_as_an_evaluation_does(llama, prompt, monkeypatch):
    """From a file, cold first and then ready: a fault in either reader fails the gate."""
    read = {name: getattr(store.StoredItem, name) for name in ("cold", "ready")}
    for name in read:

        def faulty(self, watch, target, name=name):
            _brought(read[name](self, watch, target))
            target[1].add_(0.5)

        monkeypatch.setattr(store.StoredItem, name, faulty)
        outcome = gate.run(llama.engine, prompt, SINK)
        assert [check.passed for check in outcome.checks[:2]] == [False, False]
        monkeypatch.undo()
        assert gate.run(llama.engine, prompt, SINK).passed


def _brought(stream):
    """All layers at once, where they come one by one."""
    if stream:
        stream.finish()
        stream.drain()


def test_the_gate_takes_streams(llama, prompt, monkeypatch):
    """What a GPU's reader returns; a layer comes when it is asked for."""
    cold, streams = store.StoredItem.cold, []

    def streamed(self, watch, target):
        stored = target.clone()
        _brought(cold(self, watch, stored))
        target.fill_(7.0)
        streams.append(LayerStream(stored, target))
        return streams[-1]

    monkeypatch.setattr(store.StoredItem, "cold", streamed)
    monkeypatch.setattr(store.StoredItem, "ready", streamed)
    assert gate.run(llama.engine, prompt, SINK).passed
    methods = len(gate.METHODS)
    assert len(streams) == methods + methods * len(gate.RATES) + 1 + methods


def test_the_gate_leaves_nothing_behind(llama, prompt, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gate.run(llama.engine, prompt, SINK)
    monkeypatch.setattr(gate, "METHODS", (("oracle_kv", "none"),))
    with pytest.raises(UserError):
        gate.run(llama.engine, prompt, SINK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("chunks", "count"), [([90], 1), ([0, 90, 0], 1), ([], 0), ([5, 0, 6], 2), ([3, 4, 5], 3)]
)
def test_the_gate_says_how_many_chunks_it_ran_on(llama, chunks, count):
    outcome = gate.run(llama.engine, random_prompt(4, chunks, 9), SINK)
    assert outcome.passed
    assert outcome.chunks == count


@pytest.mark.parametrize(
    ("chunks", "cut"),
    [
        ([600, 600, 600], [512, 512]),
        ([2000], [512]),
        ([10, 2000, 2000], [10, 512, 502]),
        ([400, 400, 400], [400, 400, 224]),
    ],
)
def test_a_long_item_is_cut_to_two_chunks_at_least(chunks, cut):
    prompt = random_prompt(9, chunks, 20)
    short = gate.shorten(prompt)
    assert [end - start for start, end in short.chunks] == cut
    assert short.ids[:9] == prompt.ids[:9]
    assert short.ids[-20:] == prompt.ids[-20:]
    for (a, b), (start, _) in zip(short.chunks, prompt.chunks, strict=False):
        assert short.ids[a:b] == prompt.ids[start : start + b - a]


def test_a_gate_passes_only_as_a_whole():
    """Within the tolerance, all three; in half precision greedy answers may part."""
    good, bad = gate.Check("a", 0.0, True, True), gate.Check("b", 0.1, True, False)
    for checks in ((bad, good, good), (good, bad, good), (good, good, bad)):
        assert not gate.Gate(9, 2, 1e-3, checks).passed
    assert gate.Gate(9, 2, 1e-3, (good, good, good)).passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_distance_beyond_the_tolerance_fails(prompt, dtype, monkeypatch):
    engine = Engine(build("llama", initializer_range=0.1).to(dtype), "blocked")
    found = gate.run(engine, prompt, SINK).checks[1]
    assert found.distance > 0
    for tolerance in (found.distance * 1.01, found.distance * 0.99):
        monkeypatch.setitem(gate.TOLERANCE, dtype, tolerance)
        again = gate.run(engine, prompt, SINK).checks[1]
        assert again.distance == found.distance
        assert again.passed == (tolerance > found.distance)


def test_in_float32_the_greedy_answers_must_be_equal(llama, prompt, monkeypatch):
    """A near tie that another rounding flips shows in the tokens alone."""
    follow, turn = Engine.follow, []

    def other(self, *args):
        logits = follow(self, *args)
        turn.append(logits)
        if len(turn) == 2:  # the second method of the first check
            return torch.cat([logits[:-1], -logits[-1:]])
        return logits

    monkeypatch.setattr(Engine, "follow", other)
    outcome = gate.run(llama.engine, prompt, SINK)
    assert [check.tokens_equal for check in outcome.checks] == [False, True, True]
    assert not outcome.passed
    turn.clear()
    half = Engine(build("llama", initializer_range=0.1).bfloat16())
    outcome = gate.run(half, prompt, SINK)
    assert not outcome.checks[0].tokens_equal
    assert outcome.passed


@pytest.mark.parametrize("backend", ["auto", "blocked", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gate_holds_in_every_dtype_on_every_back_end(family, prompt, backend, dtype):
    engine = Engine(build(family.name, initializer_range=0.1).to(dtype), backend)
    outcome = gate.run(engine, prompt, SINK)
    assert outcome.passed, outcome
    assert outcome.tolerance <= gate.TOLERANCE[dtype]
    assert (outcome.tolerance == gate.TOLERANCE[dtype]) == (dtype == torch.float32)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("backend", ["blocked", "sdpa"])
def test_in_half_precision_the_gate_is_as_narrow_as_the_model_allows(prompt, backend, family):
    """A model with small logits: what 1.0 would let pass does not."""
    engine = Engine(build(family, initializer_range=0.1).to(torch.bfloat16), backend)
    outcome = gate.run(engine, prompt, SINK)
    assert outcome.passed, outcome
    assert outcome.tolerance < 0.15
    assert outcome.moved <= outcome.tolerance
    assert max(check.distance for check in outcome.checks) <= outcome.tolerance


def test_in_half_precision_keys_rotated_by_one_position_too_far_fail(prompt, monkeypatch):
    engine = Engine(build("llama", initializer_range=0.1).to(torch.bfloat16), "sdpa")
    rotate = engine.modules.family.rotate_cached_
    monkeypatch.setattr(
        engine.modules.family,
        "rotate_cached_",
        lambda keys, cos, sin: rotate(keys, cos.roll(1, 0), sin.roll(1, 0)),
    )
    outcome = gate.run(engine, prompt, SINK)
    assert not outcome.passed
    assert outcome.checks[1].distance < gate.TOLERANCE[torch.bfloat16]  # let pass by that alone


def test_what_another_order_of_the_sums_gives_is_the_full_prefill(llama, prompt):
    full = llama.engine.full_prefill(prompt).logits
    for backend, cut in ((llama.engine.backend, 0), ("sdpa", 0), ("sdpa", 40), ("blocked", 7)):
        other = llama.engine.reordered(prompt, backend, cut)
        assert torch.allclose(other, full, atol=1e-3), (backend, cut)
