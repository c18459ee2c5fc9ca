"""What stands in front of segments, against the library run on both together."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from models import gate
from models.finite import NotFinite
from models.gate import reader
from models.kv import sinks as sinks_module
from models.kv.capture import capture
from models.kv.front import KEPT, Front, Fronts
from models.kv.rotary import rotate_keys_
from models.modules import Modules
from models.prompt import Headers
from models.selectors import attnlink, build
from tests.conftest import Family, random_prompt
from tests.conftest import build as build_model
from tests.models.library_states import SINK, eager

PRIMER = random_prompt(0, [40], 1, seed=9).ids[:40]
CONTEXTS = ["prefix", "primed", "sink"]


def before(kind: str, prompt) -> tuple[int, ...]:
    prefix = prompt.ids[slice(*prompt.prefix)]
    return {"sink": tuple(SINK), "prefix": prefix, "primed": (*prefix, *PRIMER)}[kind]


def together(family: Family, ids, first: int):
    """Rotated keys and values ``[2, L, H_kv, n, D]`` of the rows from ``first`` on, and logits."""
    cache = DynamicCache()
    out = family.library(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    kv = [torch.stack([getattr(layer, n)[0] for layer in cache.layers]) for n in ("keys", "values")]
    return torch.stack(kv)[:, :, :, first:], out.logits[0, first:].float()


def rotated(family: Family, kv, first: int):
    """Captured KVs with their keys at positions from ``first`` on."""
    kv = kv.clone()
    positions = torch.arange(first, first + kv.shape[3])
    cos, sin = family.library.model.rotary_emb(kv, positions[None])
    rotate_keys_(kv[0], cos[0], sin[0])
    return kv


@pytest.mark.parametrize("backend", ["native", "sdpa"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_segment_is_what_the_library_makes_of_it_behind_its_front(family, kind, backend):
    prompt = random_prompt(9, [40, 1, 40, 33], 17)
    modules = Modules(build_model(family.name), backend)
    ids = before(kind, prompt)
    found = capture(modules, prompt, [5], ["surprisal", "sinks"], [Front(modules, ids)])
    for start, end in prompt.segments:
        front = ids if start > 0 else ()
        tokens = (*front, *prompt.ids[start:end])
        wanted, logits = together(family, tokens, len(front))
        ours = rotated(family, found.kv[:, :, :, start:end], len(front))
        assert torch.allclose(ours, wanted, atol=1e-4)
        surprise = cross_entropy(
            logits[:-1], torch.tensor(prompt.ids[start + 1 : end]).long(), reduction="none"
        )
        assert found.scores["surprisal"][start] == 0
        assert torch.allclose(found.scores["surprisal"][start + 1 : end], surprise, atol=1e-3)
        weights = eager(family.name)(torch.tensor([tokens]), output_attentions=True).attentions
        drawn = torch.stack(weights).double().mean((0, 1, 2, 3))[len(front) :].float()
        assert torch.allclose(found.scores["sinks"][start:end], drawn, atol=1e-5)


def each(prompt) -> list[tuple[int, ...]]:
    """Fronts of other lengths for every segment behind the prefix."""
    prefix = prompt.ids[slice(*prompt.prefix)]
    return [(*prefix, *PRIMER[i : 12 * i]) for i in range(len(prompt.segments) - 1)]


@pytest.mark.parametrize("backend", ["native", "sdpa"])
@pytest.mark.parametrize("prefix", [0, 9])
def test_every_segment_may_have_a_front_of_its_own(family, backend, prefix):
    prompt = random_prompt(prefix, [40, 1, 0, 33], 17)
    modules = Modules(build_model(family.name), backend)
    fronts = each(prompt)
    found = capture(modules, prompt, [5], ["surprisal", "sinks"], Fronts(modules).of(fronts))
    for (start, end), ids in zip(prompt.segments, ((), *fronts), strict=True):
        if start == end:
            continue
        front = ids if start > 0 else ()
        tokens = (*front, *prompt.ids[start:end])
        wanted, logits = together(family, tokens, len(front))
        ours = rotated(family, found.kv[:, :, :, start:end], len(front))
        assert torch.allclose(ours, wanted, atol=1e-4)
        surprise = cross_entropy(
            logits[:-1], torch.tensor(prompt.ids[start + 1 : end]).long(), reduction="none"
        )
        assert torch.allclose(found.scores["surprisal"][start + 1 : end], surprise, atol=1e-3)
        weights = eager(family.name)(torch.tensor([tokens]), output_attentions=True).attentions
        drawn = torch.stack(weights).double().mean((0, 1, 2, 3))[len(front) :].float()
        assert torch.allclose(found.scores["sinks"][start:end], drawn, atol=1e-5)


def test_the_same_front_for_each_is_one_for_all(family, prompt):
    modules, ids = family.engine.modules, before("primed", prompt)
    shared = capture(modules, prompt, SINK, ["sinks"], [Front(modules, ids)])
    own = Fronts(modules).of([ids] * (len(prompt.segments) - 1))
    own = capture(modules, prompt, SINK, ["sinks"], own)
    assert torch.allclose(own.kv, shared.kv, atol=1e-4)
    assert torch.allclose(own.scores["sinks"], shared.scores["sinks"], atol=1e-6)


def test_the_gates_pass_where_every_segment_has_its_own_front(family, prompt):
    outcome = gate.run(family.engine, prompt, SINK, each(prompt))
    assert outcome.passed, outcome
    long = random_prompt(9, [700, 700, 300], 17)  # cut to fewer chunks for its gate
    assert gate.run(family.engine, long, SINK, each(long)).passed


def test_the_first_chunk_behind_its_prefix_is_that_of_the_full_prefill(family, prompt):
    modules = family.engine.modules
    kv = capture(modules, prompt, SINK, fronts=[Front(modules, before("prefix", prompt))]).kv
    end = prompt.chunks[0][1]
    wanted, _ = together(family, prompt.ids, 0)
    assert torch.allclose(rotated(family, kv[:, :, :, :end], 0), wanted[:, :, :, :end], atol=1e-4)
    second = slice(*prompt.chunks[1])
    assert not torch.allclose(kv[1, 1:, :, second], wanted[1, 1:, :, second], atol=0.01)


def test_the_first_chunk_may_stand_behind_another_front_than_the_others(family, prompt):
    """Each segment is what it is where its front stands before all of them."""
    modules = family.engine.modules
    prefix, primed = (Front(modules, before(kind, prompt)) for kind in ("prefix", "primed"))
    found = capture(modules, prompt, SINK, ["sinks"], [prefix, primed])
    one = capture(modules, prompt, SINK, ["sinks"], [prefix])
    other = capture(modules, prompt, SINK, ["sinks"], [primed])
    end = prompt.chunks[0][1]
    for rows, wanted in ((slice(end), one), (slice(end, None), other)):
        assert torch.allclose(found.kv[:, :, :, rows], wanted.kv[:, :, :, rows], atol=1e-5)
        same = found.scores["sinks"][rows], wanted.scores["sinks"][rows]
        assert torch.allclose(*same, atol=1e-6)
    assert not torch.allclose(one.kv[1, 1:, :, end:], other.kv[1, 1:, :, end:], atol=0.01)


def test_a_sink_as_a_front_is_the_sink(family, prompt):
    modules = family.engine.modules
    plain = capture(modules, prompt, SINK, ["sinks"])
    behind = capture(modules, prompt, [], ["sinks"], [Front(modules, SINK)])
    assert torch.allclose(behind.kv, plain.kv, atol=1e-4)
    assert torch.allclose(behind.scores["sinks"], plain.scores["sinks"], atol=1e-6)


@pytest.mark.parametrize("kind", CONTEXTS)
def test_the_gates_pass_behind_every_front(family, prompt, kind):
    outcome = gate.run(
        family.engine, prompt, SINK, [before("prefix", prompt), before(kind, prompt)]
    )
    assert outcome.passed, outcome


@pytest.mark.parametrize("kind", CONTEXTS)
def test_everything_recomputed_is_full_prefill_whatever_stood_in_front(family, prompt, kind):
    modules = family.engine.modules
    kv = capture(modules, prompt, SINK, fronts=[Front(modules, before(kind, prompt))]).kv
    engine = family.engine
    engine.cache.reserve(len(prompt) + 8)
    for method in ("random", "debug", "blend", "prophet"):
        found = engine.fused_prefill(prompt, reader(kv), build(method), 1.0, torch.Generator())
        assert torch.allclose(found.logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_one_chunk_behind_its_prefix_needs_no_recomputing(family):
    prompt = random_prompt(9, [60], 12)
    modules = family.engine.modules
    kv = capture(modules, prompt, SINK, fronts=[Front(modules, before("prefix", prompt))]).kv
    family.engine.cache.reserve(len(prompt) + 8)
    found = family.engine.fused_prefill(prompt, reader(kv), build("full"), 0.0, torch.Generator())
    assert torch.allclose(found.logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_a_long_segment_behind_tokens_is_looked_at_in_parts(llama, monkeypatch):
    prompt = random_prompt(9, [70, 33], 17)
    front = Front(llama.engine.modules, before("primed", prompt))
    whole = capture(llama.engine.modules, prompt, SINK, ["sinks"], [front]).scores["sinks"]
    monkeypatch.setattr(sinks_module, "ROWS", 16)
    parts = capture(llama.engine.modules, prompt, SINK, ["sinks"], [front]).scores["sinks"]
    assert torch.allclose(parts, whole, atol=1e-6)


def test_the_tokens_in_front_are_run_once(llama, prompt):
    """Counted where every token enters."""
    modules, seen = llama.engine.modules, []
    handle = modules.embed.register_forward_hook(lambda m, ids, out: seen.append(ids[0].numel()))
    try:
        fronts, ids = Fronts(modules), before("primed", prompt)
        other = random_prompt(9, [50, 20], 8, seed=4)
        for item in (prompt, other, prompt):
            capture(modules, item, SINK, fronts=fronts.of([ids]))
    finally:
        handle.remove()
    assert sum(seen) == len(ids) + 2 * len(prompt) + len(other)


def test_only_the_latest_fronts_are_kept(llama):
    fronts = Fronts(llama.engine.modules)
    first = fronts.one((1, 5))
    for token in range(6, 5 + KEPT):
        fronts.one((1, token))
    assert fronts.of([(1, 5)])[0] is first
    for token in range(40, 40 + KEPT):
        fronts.one((1, token))
    assert fronts.of([(1, 5)])[0] is not first
    assert fronts.one(()) is None
    assert len(fronts.of([])) == 0


def test_a_front_that_is_no_number_is_refused(prompt):
    model = build_model("llama")
    model.model.embed_tokens.weight[150] = torch.nan
    with pytest.raises(NotFinite, match="in front of the chunks"):
        Front(Modules(model), (1, 150, 3))


def test_a_model_without_preference_draws_by_chance_behind_a_front(prompt):
    model = build_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.zero_()
    modules, ids = Modules(model), before("primed", prompt)
    found = capture(modules, prompt, SINK, ["sinks"], [Front(modules, ids)]).scores["sinks"]
    drawn = found[slice(*prompt.documents)].double()
    shares = attnlink.by_chance(prompt, "place", Headers((len(ids),)))
    assert torch.allclose(drawn / shares, torch.ones(len(drawn)).double(), atol=1e-4)
    own = each(prompt)
    drawn = capture(modules, prompt, SINK, ["sinks"], Fronts(modules).of(own)).scores["sinks"]
    shares = attnlink.by_chance(prompt, "place", Headers(tuple(map(len, own))))
    drawn = drawn[slice(*prompt.documents)].double()
    assert torch.allclose(drawn / shares, torch.ones(len(drawn)).double(), atol=1e-4)


def test_half_precision_keeps_its_dtype():
    modules = Modules(build_model("llama").bfloat16())
    prompt = random_prompt(3, [20, 20], 5)
    front = Front(modules, before("primed", prompt))
    assert front.kv.dtype == torch.bfloat16
    assert capture(modules, prompt, SINK, fronts=[front]).kv.dtype == torch.bfloat16
