"""The newer published rules, in plain loops over what the library's own model says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models import selectors
from models.errors import UserError
from models.kv.transfer import LayerStream
from models.prompt import Prompt
from tests.conftest import Family
from tests.models.library_states import cached, sinks
from tests.models.selector_references import (
    SHAPES,
    assert_takes_the_best,
    attention,
    best,
    captured,
    chosen,
    document_attention,
    fuse,
    shaped,
)
from tests.models.test_question_pass import Told, asked

SCALE = 1 / math.sqrt(16)


# InfoFlow


def norms(family: Family, prompt: Prompt, layers: list[int], values: bool) -> list[float]:
    """By document position: the length of what heads and rows give it, summed over layers."""
    first, last = prompt.documents
    states, stored = asked(family, prompt), cached(family, prompt)
    total = [0.0] * (last - first)
    for layer in layers:
        queries, keys = states[layer]
        weights = attention(queries, keys, prompt.question[0], SCALE)
        group = queries.shape[0] // keys.shape[0]
        for i in range(last - first):
            squares = []
            for head in range(queries.shape[0]):
                v = stored[layer]["v"][head // group, first + i].tolist()
                length = math.hypot(*v) if values else 1.0
                squares += [(a * length) ** 2 for a in weights[head, :, first + i].tolist()]
            total[i] += math.sqrt(math.fsum(squares))
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["weights", "values"])
def test_infoflow_takes_the_largest_norms_of_the_questions_attention(family, shape, norm):
    prompt = shaped(shape, seed=21)
    for layer, layers in ((None, range(4)), (0, [0]), (2, [2])):
        scores = norms(family, prompt, list(layers), norm == "values")
        selector = selectors.make("infoflow", norm=norm, layer=layer)
        assert_takes_the_best(family, prompt, selector, scores)


def test_infoflow_is_not_the_mean_and_its_options_matter(llama):
    prompt = shaped("usual", seed=21)
    specs = ["prophet", "infoflow", "infoflow:norm=values", "infoflow:layer=3"]
    found = {spec: tuple(chosen(llama, prompt, spec, 0.3)) for spec in specs}
    assert len(set(found.values())) == len(specs)


def test_infoflow_looks_no_further_than_its_layer(llama):
    assert selectors.make("infoflow", layer=3).deepest == 3
    assert selectors.make("infoflow").deepest == 0
    with pytest.raises(UserError, match="layer 7 does not exist"):
        chosen(llama, shaped("usual"), "infoflow:layer=7", 0.3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"norm": "keys"}, "NORM is weights or values, not 'keys'"),
        ({"layer": -1}, "LAYER=-1 must be at least 0"),
        ({"anchors": -1}, "ANCHORS=-1 must be at least 0"),
        ({"critical_layer": -2}, "CRITICAL_LAYER=-2 must be at least 0"),
    ],
)
def test_an_option_out_of_range_is_told_in_one_line(options, told):
    name = "infoflow" if options.keys() & {"norm", "layer"} else "qcfuse"
    with pytest.raises(UserError, match=told):
        selectors.make(name, **options)


# QCFuse


def over_anchors(family: Family, prompt: Prompt, anchors: list[int], layer: int) -> Tensor:
    """The question's attention at a layer, one row at a time through the library's own layers.

    What a row may not see is not in its cache; what it sees keeps its rotation.
    """
    model, kv = family.library.model, cached(family, prompt)
    seen, first = [*range(*prompt.prefix), *anchors], prompt.question[0]
    hidden = model.embed_tokens(torch.tensor(prompt.ids))
    rotary = model.rotary_emb(hidden, torch.arange(len(prompt))[None])
    held = [[at[n][:, seen].float() for n in "kv"] for at in kv[:layer]]
    queries, keys = [], [kv[layer]["k"][:, :first].float()]
    for p in range(*prompt.question):
        row, turn = hidden[None, p : p + 1], tuple(part[:, p : p + 1] for part in rotary)
        for i in range(layer):
            past = DynamicCache()
            past.update(held[i][0][None], held[i][1][None], i)
            row = model.layers[i](row, position_embeddings=turn, past_key_values=past)
            held[i] = [past.layers[i].keys[0], past.layers[i].values[0]]
        for name, rows in (("q", queries), ("k", keys)):
            attends = model.layers[layer].self_attn
            made = getattr(attends, f"{name}_proj")(model.layers[layer].input_layernorm(row))
            made = made.view(1, 1, -1, 16)
            norm = getattr(attends, f"{name}_norm", None)
            made = (norm(made) if norm else made).transpose(1, 2)
            rows.append(apply_rotary_pos_emb(made, made, *turn)[0][0])
    return attention(torch.cat(queries, 1).double(), torch.cat(keys, 1).double(), first, SCALE)


def anchors_of(family: Family, prompt: Prompt, count: int) -> list[int]:
    found = []
    for span in prompt.chunks:
        found += best(sinks(family, prompt, span), span[0], count)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("anchors", "layer"), [(16, None), (3, 1), (0, 3), (5, 0)])
def test_qcfuse_asks_over_anchors_and_looks_at_one_layer(family, shape, anchors, layer):
    prompt = shaped(shape, seed=22)
    at = 2 if layer is None else layer  # two thirds of four layers
    weights = over_anchors(family, prompt, anchors_of(family, prompt, anchors), at)
    scores = document_attention([weights], prompt)
    selector = selectors.make("qcfuse", anchors=anchors, critical_layer=layer)
    assert_takes_the_best(family, prompt, selector, scores)


def test_with_every_token_an_anchor_it_is_a_question_pass(family):
    prompt = shaped("usual", seed=22)
    queries, keys = asked(family, prompt)[3]
    weights = attention(queries, keys, prompt.question[0], SCALE)
    scores = document_attention([weights], prompt)
    assert_takes_the_best(family, prompt, "qcfuse:anchors=99:critical_layer=3", scores)


def test_a_glance_leaves_no_trace_and_costs_few_keys(family):
    prompt = shaped("usual", seed=22)
    for rate in (0.0, 0.3, 1.0):
        spec = "qcfuse:anchors=4:critical_layer=3"
        positions = chosen(family, prompt, spec, rate)
        prefill = fuse(family, prompt, spec, rate)
        kv = family.engine.cache.kv[:, :, :, : len(prompt)].clone()
        told = fuse(family, prompt, Told(positions), rate)
        assert torch.equal(told.logits, prefill.logits)
        assert torch.equal(family.engine.cache.kv[:, :, :, : len(prompt)], kv)
        (rows, depth), (recomputed, layers) = prefill.passes
        seen = 5 + 4 + 1 + 4  # the prefix, and of each chunk four at most
        assert rows.tolist() == list(range(seen, seen + 9))
        assert (depth, layers) == (3, 4)
        assert recomputed.tolist() == prefill.recomputed.tolist()


def test_the_rows_of_a_glance_come_by_a_stream(llama):
    prompt = shaped("usual", seed=22)
    spec = "qcfuse:anchors=4:critical_layer=3"
    whole = fuse(llama, prompt, spec, 0.3)
    kv = captured(llama, prompt).kv
    with torch.inference_mode():
        llama.engine.cache.kv.fill_(7.0)
    streamed = llama.engine.fused_prefill(
        prompt,
        lambda watch, target: LayerStream(kv, target),
        selectors.build(spec),
        0.3,
        torch.Generator(),
        captured(llama, prompt).scores.__getitem__,
    )
    assert torch.equal(streamed.logits, whole.logits)
