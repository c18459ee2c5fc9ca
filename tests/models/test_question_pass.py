"""Selectors that let the question run ahead over the cached KVs, against the library doing so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from models import selectors
from models.gate import reader
from models.kv.capture import capture
from models.kv.front import Front
from models.prompt import Prompt
from models.selectors import BaseSelector, primer
from tests.conftest import Family, random_prompt
from tests.models.library_states import SINK, cached, question_over
from tests.models.selector_references import (
    EVERY_SELECTOR,
    RATES,
    SHAPES,
    assert_best,
    assert_takes_the_best,
    attention,
    captured,
    chosen,
    document_attention,
    fuse,
    pooled,
    shaped,
    wide,
)


@dataclass
class Told(BaseSelector):
    """Positions that were chosen before."""

    positions: list[int]
    adds_question: bool = True

    def select(self, probe):
        return torch.tensor(self.positions, dtype=torch.long)


def asked(family: Family, prompt: Prompt) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Queries of the question and keys of the whole prompt, by layer of a question pass."""
    kv = cached(family, prompt)
    question = question_over(family, prompt, kv)
    first = prompt.question[0]
    return [
        (own["q"], torch.cat([at["k"][:, :first], own["k"]], 1))
        for at, own in zip(kv, question, strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_prophet_takes_what_the_question_looks_at_in_all_layers(family, shape):
    prompt = shaped(shape, seed=11)
    by_layer = [
        attention(queries, keys, prompt.question[0], 1 / math.sqrt(16))
        for queries, keys in asked(family, prompt)
    ]
    scores = document_attention(by_layer, prompt)
    assert_takes_the_best(family, prompt, "prophet", scores)
    for width in (3, 5):
        near = pooled(scores, width, edge_corrected=True)
        assert_takes_the_best(family, prompt, f"prophet:pool={width}", near)


@pytest.mark.parametrize("decay", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_primer_weighs_what_the_question_looks_at_by_its_place(family, shape, decay):
    """Where nothing stands before the first chunk, its KVs are exact and it is left alone."""
    prompt = shaped(shape, seed=11)
    by_layer = [
        attention(queries, keys, prompt.question[0], 1 / math.sqrt(16))
        for queries, keys in asked(family, prompt)[1:2]  # of four layers
    ]
    places = [place for start, end in prompt.chunks for place in range(1, end - start + 1)]
    scores = [
        score * place**-decay
        for score, place in zip(document_attention(by_layer, prompt), places, strict=True)
    ]
    (first, last), exact = prompt.documents, 0
    if not prompt.prefix[1]:
        exact = prompt.chunks[0][1] - first
    for rate in RATES:
        found = chosen(family, prompt, f"primer:decay={decay}", rate)
        k = min(prompt.budget(rate), last - first - exact)
        assert_best(found, scores[exact:], first + exact, k)


def test_primer_looks_at_a_fifth_of_the_layers():
    looked = {n: list(primer.looked_at(n)) for n in (1, 2, 4, 5, 24, 30, 32)}
    assert looked[1] == looked[2] == [0]
    assert looked[4] == [1]
    assert looked[5] == [2]
    assert looked[24] == list(range(9, 14))
    assert looked[30] == list(range(12, 18))
    assert looked[32] == list(range(12, 19))


def test_primer_leaves_what_is_exact_alone(family, prompt):
    """Behind its own prefix the first chunk is the full prefill's, wherever the others stand."""
    modules = family.engine.modules
    prefix = Front(modules, prompt.ids[slice(*prompt.prefix)])
    primed = Front(modules, (*prefix.ids, 7, 8, 9, 10))
    end = prompt.chunks[0][1]
    for fronts, spared in (([prefix], True), ([prefix, primed], True), ([primed], False)):
        found = capture(modules, prompt, SINK, fronts=fronts)
        assert found.headers.exact == spared
        family.engine.cache.reserve(len(prompt) + 8)
        for rate in (0.0, 0.2, 1.0):
            fused = family.engine.fused_prefill(
                prompt,
                reader(found.kv),
                selectors.build("primer"),
                rate,
                torch.Generator(),
                headers=found.headers,
            )
            rows = [p for p in fused.recomputed.tolist() if p < prompt.documents[1]]
            whole = prompt.documents[1] - (end if spared else prompt.documents[0])
            assert len(rows) == min(prompt.budget(rate), whole)
            assert not spared or all(row >= end for row in rows)
        assert torch.allclose(fused.logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_primer_asks_nothing_where_nothing_may_be_recomputed(llama):
    prefill = fuse(llama, shaped("usual"), "primer", 0.0)
    assert [layers for _, layers in prefill.passes] == [len(llama.engine.modules.layers)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_head": True, "edge_corrected": True},
        {"check_layer": 0},
        {"check_layer": 3, "per_head": True},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_debug_over_cached_keys(family, shape, options):
    prompt = shaped(shape, seed=12)
    first, last = prompt.documents
    queries, keys = asked(family, prompt)[options.get("check_layer", 1)]
    keys, scale, n_heads = keys[:, first:], 1 / math.sqrt(16), queries.shape[0]
    if not options.get("per_head"):
        queries, keys = wide(queries, n_heads), wide(keys, n_heads)
        scale /= math.sqrt(n_heads)
    weights = attention(queries, keys, last - first, scale)
    received = [math.fsum(weights[:, :, i].flatten().tolist()) for i in range(last - first)]
    scores = pooled(received, 5, options.get("edge_corrected", False))
    assert_takes_the_best(
        family, prompt, selectors.make("debug", check="cached", **options), scores
    )


def test_cached_keys_are_not_fresh_ones(llama):
    """Above the first layers the two ways of checking choose differently."""
    prompt = shaped("usual", seed=12)
    dense, old = (chosen(llama, prompt, f"debug:check_layer=3:check={c}", 0.5) for c in CHECKS)
    assert dense != old


CHECKS = ("dense", "cached")
ASKING = [
    "prophet",
    "primer",
    "prophet:pool=3",
    "debug:check=cached",
    "debug:check=cached:check_layer=3",
]


@pytest.mark.parametrize("spec", ASKING)
def test_a_question_pass_leaves_no_trace(family, spec):
    """The result is bit for bit that of a selector which knew the same positions beforehand."""
    prompt = random_prompt(6, [30, 1, 24], 9, seed=13)
    for rate in (0.0, 0.3, 1.0):
        positions = chosen(family, prompt, spec, rate)
        logits = fuse(family, prompt, spec, rate).logits
        kv = family.engine.cache.kv[:, :, :, : len(prompt)].clone()
        told = fuse(family, prompt, Told(positions), rate)
        assert torch.equal(told.logits, logits)
        assert torch.equal(family.engine.cache.kv[:, :, :, : len(prompt)], kv)


@pytest.mark.parametrize("spec", ASKING)
def test_a_question_pass_runs_question_rows_only(llama, spec):
    prompt = shaped("usual")
    prefill = fuse(llama, prompt, spec, 0.2)
    question = list(range(*prompt.question))
    *ahead, (recomputed, layers) = prefill.passes
    assert all(rows.tolist() == question for rows, _ in ahead)
    deepest = 1 if spec == "primer" else 3
    assert sum(depth for _, depth in ahead) == selectors.build(spec).identity().get(
        "check_layer", deepest
    )
    assert recomputed.tolist() == prefill.recomputed.tolist()
    assert layers == 4


@pytest.mark.parametrize("name", EVERY_SELECTOR)
def test_rows_that_are_not_recomputed_keep_their_cached_states(family, name):
    """Above the check layer. Without ``adds_question`` this holds for the question's rows too."""
    prompt = shaped("usual", seed=14)
    told = selectors.build(name)
    if name == "attnlink":  # positions of a file, which may leave the question out
        told = Told([7, 20, len(prompt) - 1], adds_question=False)
    recomputed = fuse(family, prompt, told, 0.2).recomputed.tolist()
    kept = [p for p in range(len(prompt)) if p not in recomputed]
    for layer, at in enumerate(cached(family, prompt)):
        if layer == 0 and name in ("debug", "blend", "blend_debug"):
            continue
        for kind, what in enumerate("kv"):
            ours = family.engine.cache.kv[kind, layer][:, kept]
            assert torch.allclose(ours, at[what][:, kept].float(), atol=1e-4)


def test_a_positions_file_without_the_question_uses_its_captured_states(llama, tmp_path):
    prompt = shaped("usual", seed=14)
    path = tmp_path / "positions.json"
    path.write_text('{"7": [6, 40]}')
    selector = selectors.make("attnlink", positions=str(path))
    assert fuse(llama, prompt, selector, 0.5).recomputed.tolist() == [6, 40, len(prompt) - 1]
    question = slice(prompt.question[0], prompt.question[1] - 1)
    values = captured(llama, prompt).kv[1]
    assert torch.equal(llama.engine.cache.kv[1][:, :, question], values[:, :, question])
