"""NaN and infinity never become a figure: whoever meets one refuses it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from models import gate, selectors
from models.engine import Engine
from models.finite import NotFinite, is_finite, require_finite
from models.kv.capture import capture
from models.probe import Probe
from models.selectors import BaseSelector, top_k
from tests.conftest import build, random_prompt
from tests.models.library_states import SINK
from tests.models.selector_references import bare_probe, captured, fuse, shaped

BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture
def prompt():
    return shaped("usual", seed=61)


def broken(where: str, bad: float = math.nan):
    """A model with one bad weight."""
    model = build("llama")
    weights = {
        "embedding": model.model.embed_tokens.weight,
        "query": model.model.layers[1].self_attn.q_proj.weight,
        "value": model.model.layers[2].self_attn.v_proj.weight,
        "norm": model.model.norm.weight[None],
        "head": model.lm_head.weight,
    }
    weights[where][0, 3] = bad
    return model


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_value_among_many_is_found(bad, dtype):
    for shape in ((1,), (7,), (160, 5), (2, 3, 2, 9, 4)):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert is_finite(values)
        for place in (0, values.numel() // 2, values.numel() - 1):
            damaged = values.clone()
            damaged.view(-1)[place] = bad
            assert not is_finite(damaged)
    rows = torch.zeros(2, 4, 2, 30, 8, dtype=dtype)
    rows[1, 3, 1, 20:] = bad  # a view is looked at, and nothing else of its buffer
    assert is_finite(rows[:, :, :, :20])
    assert not is_finite(rows[:, :, :, :21])


def test_numbers_and_nothing():
    assert all(is_finite(value) for value in (0.0, -1e308, torch.zeros(0), torch.zeros(0, 3)))
    assert is_finite(torch.tensor([1, 2]))
    for bad in BAD:
        with pytest.raises(NotFinite, match=r"^the distances hold NaN or infinite values; check"):
            require_finite(bad, "the distances")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["embedding", "query", "value", "norm", "head"])
def test_one_bad_weight_stops_everything(where, bad):
    """`embedding` only prompts with that token, which all here have."""
    engine, prompt = Engine(broken(where, bad)), random_prompt(9, [30, 20], 12)
    with pytest.raises(NotFinite, match="hold NaN or infinite values"):
        engine.full_prefill(prompt)
    with pytest.raises(ValueError, match="does not hold"):
        engine.observe(prompt)
    if where in ("embedding", "query", "value"):
        with pytest.raises(NotFinite, match="the captured KVs hold NaN"):
            capture(engine.modules, prompt, SINK)
    outcome = gate.run(engine, prompt, SINK)
    assert not outcome.passed
    assert [check.passed for check in outcome.checks] == [False] * 3
    assert [check.distance for check in outcome.checks] == [math.inf] * 3
    assert [check.tokens_equal for check in outcome.checks] == [False] * 3


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("bad", BAD)
def test_bad_keys_and_values_are_refused_even_where_the_logits_hide_them(llama, prompt, kind, bad):
    """A key may be infinitely far from every query: it gets no attention, and nothing shows it."""
    good = captured(llama, prompt)
    deaf = llama.engine.modules.layers[3].self_attn.register_forward_hook(
        lambda module, args, out: (torch.zeros_like(out[0]), *out[1:])
    )
    try:
        for layer, what in ((0, "(logits|KVs)"), (3, "KVs")):
            kv = good.kv.clone()
            kv[kind, layer, 1, 20, 3] = bad
            with pytest.raises(NotFinite, match=rf"the {what} hold"):
                llama.engine.fused_prefill(
                    prompt, gate.reader(kv), selectors.make("full"), 0.0, torch.Generator()
                )
    finally:
        deaf.remove()
    assert fuse(llama, prompt, "full", 0.0).logits.isfinite().all()


class Sabotage:
    """Puts a NaN into the logits of the model's n-th use of its head."""

    def __init__(self, engine: Engine, nth: int) -> None:
        self.left = nth
        self.handle = engine.modules.model.lm_head.register_forward_hook(self)

    def __call__(self, module, args, logits):
        self.left -= 1
        if self.left == 0:
            logits = logits.clone()
            logits.view(-1)[7] = math.nan
        return logits


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_nan_while_decoding(llama, prompt, nth):
    held = fuse(llama, prompt, "full", 0.0)
    sabotage = Sabotage(llama.engine, nth)
    try:
        with pytest.raises(NotFinite, match="the logits hold NaN"):
            llama.engine.decode(held, 8, ())
    finally:
        sabotage.handle.remove()


def test_a_nan_on_the_way_along_an_answer(llama, prompt):
    held = fuse(llama, prompt, "full", 0.0)
    sabotage = Sabotage(llama.engine, 1)
    try:
        with pytest.raises(NotFinite, match="the logits hold NaN"):
            llama.engine.follow(held, [5, 6, 7])
    finally:
        sabotage.handle.remove()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_distances_from_a_damaged_cache(llama, prompt, bad):
    llama.engine.full_prefill(prompt)
    truth = llama.engine.observe(prompt)
    for kind in (0, 1):
        fuse(llama, prompt, "full", 0.0)
        with torch.inference_mode():
            llama.engine.cache.kv[kind, 2, 0, 20, 1] = bad
        with pytest.raises(NotFinite, match="the distances from the full prefill hold NaN"):
            llama.engine.deviations(truth)


def test_bad_queries_cannot_be_observed(llama, prompt):
    llama.engine.full_prefill(prompt)
    handle = llama.engine.modules.layers[3].self_attn.q_proj.register_forward_hook(
        lambda module, args, out: out * math.nan
    )
    try:
        with pytest.raises(NotFinite, match="the full prefill's queries hold NaN"):
            llama.engine.observe(prompt)
    finally:
        handle.remove()


# Scores


@pytest.mark.parametrize("bad", BAD)
def test_no_top_of_scores_that_are_none(bad):
    scores = torch.arange(9.0)
    assert top_k(scores, 2).tolist() == [8, 7]
    for place in (0, 8):
        damaged = scores.clone()
        damaged[place] = bad
        for k in (0, 2, 9):
            with pytest.raises(NotFinite, match="the selector's scores hold NaN"):
                top_k(damaged, k)


@pytest.mark.parametrize("name", ["surprisal_chunk", "attnlink", "attnlink:chance=length"])
def test_bad_offline_scores(prompt, name):
    scores = torch.rand(len(prompt), generator=torch.Generator().manual_seed(0))
    scores[40] = math.nan
    with pytest.raises(NotFinite, match="the selector's scores hold NaN"):
        selectors.build(name).select(bare_probe(prompt, 0.3, scores))


LOOKING = ["debug", "debug:per_head=1", "blend", "blend:blend_gap_source=k", "prophet"]
FUSED = [
    f"blend_debug:fusion={f}:normalize={n}"
    for f in ("mul", "sum", "rank")
    for n in ("minmax", "rank")
]


PREFIX, CHECKED = (0, 2), (1, 30)  # layer and position: all later rows see it; only deviations


@pytest.mark.parametrize(
    ("spec", "place"),
    [(spec, PREFIX) for spec in [*LOOKING, "debug:check=cached", *FUSED]]
    + [(spec, CHECKED) for spec in ["blend", "blend:blend_gap_source=k", *FUSED]],
)
def test_a_selector_that_meets_a_nan_does_not_choose(llama, prompt, spec, place):
    """`min_max` of scores with a NaN are all zeros, and ranks of them are ranks."""

    @dataclass
    class Watched(BaseSelector):
        inner: BaseSelector
        chose: bool = False

        def select(self, probe: Probe):
            positions = self.inner.select(probe)
            self.chose = True
            return positions

    kv = captured(llama, prompt).kv.clone()
    kv[:, place[0], 0, place[1], 2] = math.nan
    watched = Watched(selectors.build(spec))
    with pytest.raises(NotFinite, match=r"the selector's (scores|deviations|attention scores)"):
        llama.engine.fused_prefill(prompt, gate.reader(kv), watched, 0.3, torch.Generator())
    assert not watched.chose


@pytest.mark.parametrize("name", ["oracle_kv", "oracle_attn"])
def test_an_oracle_that_meets_a_nan_does_not_choose(llama, prompt, name):
    llama.engine.full_prefill(prompt)
    truth = llama.engine.observe(prompt)
    with torch.inference_mode():
        truth.kv[0, 2, 1, 33, 0] = math.nan
    with pytest.raises(NotFinite, match="the selector's scores hold NaN"):
        llama.engine.fused_prefill(
            prompt,
            gate.reader(captured(llama, prompt).kv),
            selectors.make(name),
            0.3,
            torch.Generator(),
            truth=truth,
        )


@pytest.mark.parametrize("name", ["surprisal", "sinks"])
def test_bad_scores_are_not_captured(prompt, name):
    """Logits that overflow make surprisal infinite while every KV is a number."""
    engine = Engine(build("llama"))
    if name == "surprisal":
        handle = engine.modules.model.lm_head.register_forward_hook(
            lambda module, args, out: out.masked_fill(out > out.mean(), -math.inf)
        )
    else:
        handle = engine.modules.layers[3].self_attn.q_proj.register_forward_hook(
            lambda module, args, out: out * math.nan
        )
    with pytest.raises(NotFinite, match=f"the {name} scores hold NaN"):
        capture(engine.modules, prompt, SINK, [name])
    handle.remove()
