"""Whole models with packed layers: the library's own results, memory, and what is said of them."""

import weakref

import pytest
import torch
from torch import nn

from bench.library import Library
from models import gate
from models.engine import Engine
from models.kv.capture import capture
from models.linear import layers, table
from models.linear.packed import PackedLinear, lacking
from models.linear.table import TableHead
from models.load import weights
from models.load.source import ModelSource
from models.load.weights import load
from tests.conftest import FAMILIES, build, random_prompt
from tests.models.library_states import SINK
from tests.models.test_load import Tokenizer

pytestmark = pytest.mark.skipif(
    any(lacking(dtype) for dtype in (torch.float32, torch.bfloat16)), reason="nothing to pack with"
)
needs_kernel = pytest.mark.skipif(
    table.lacking(torch.zeros(1, 1)) is not None, reason="no kernel for a tied head"
)
BIAS = {"llama": {"attention_bias": True, "mlp_bias": True}}


@pytest.fixture(autouse=True)
def tiny_layers_too(monkeypatch):
    monkeypatch.setattr(layers, "SMALLEST", 0)


def always(plain, packed):
    return True


def kinds(model) -> set[type]:
    return {type(m) for m in model.modules() if isinstance(m, nn.Linear | PackedLinear)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_an_engine_over_packed_layers_is_the_librarys_model(name, tied, prompt):
    changes = {"tie_word_embeddings": tied, **BIAS.get(name, {})}
    library, ours = build(name, **changes), build(name, **changes)
    layers.pack(ours, always)
    assert kinds(ours) == {PackedLinear}
    right = library(torch.tensor([prompt.ids])).logits[0]
    engine = Engine(ours)
    prefill = engine.full_prefill(prompt)
    torch.testing.assert_close(prefill.logits, right[-1], atol=1e-4, rtol=1e-4)
    tokens = engine.decode(prefill, 8, ()).tokens
    logits = library(torch.tensor([[*prompt.ids, *tokens]])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == tokens
    plain = Engine(build(name, **changes))
    one, other = (capture(e.modules, prompt, SINK, ["surprisal"]) for e in (engine, plain))
    torch.testing.assert_close(one.kv, other.kv, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        one.scores["surprisal"], other.scores["surprisal"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_the_gates_pass(name, dtype):
    model = build(name, initializer_range=0.1).to(dtype)
    layers.pack(model, always)
    outcome = gate.run(Engine(model), random_prompt(9, [70, 70, 33], 17), SINK)
    assert outcome.passed, outcome


@pytest.mark.parametrize("where", ["q_proj", "v_proj"])
def test_a_weight_that_is_nan_fails_the_gate(where):
    model = build("llama")
    getattr(model.model.layers[2].self_attn, where).weight[3, 5] = torch.nan
    layers.pack(model, always)
    outcome = gate.run(Engine(model), random_prompt(9, [64, 64], 12), SINK)
    assert not any(check.passed for check in outcome.checks)


def test_plain_weights_are_freed_and_packed_ones_counted():
    model = build("llama", tie_word_embeddings=False)
    total = sum(p.nbytes for p in model.parameters())
    plain = [weakref.ref(m.weight) for m in model.modules() if isinstance(m, nn.Linear)]
    alive = []

    def choose(layer, packed):
        alive.append(sum(ref() is not None for ref in plain))
        return True

    layers.pack(model, choose)
    assert len(plain) == 4 * 7 + 1
    assert alive == list(range(len(plain), 0, -1)), "one after the other"
    assert not any(ref() is not None for ref in plain)
    assert sum(p.nbytes for p in model.parameters()) == total
    assert not any(p.requires_grad for p in model.parameters())


@needs_kernel
def test_a_tied_head_reads_the_embeddings_own_table():
    model = build("llama", tie_word_embeddings=True)
    before = sum(p.nbytes for p in model.parameters())
    weight = model.model.embed_tokens.weight
    copy = weight.clone()
    layers.pack(model, always)
    assert isinstance(model.lm_head, TableHead)
    assert model.lm_head.weight is model.model.embed_tokens.weight is weight
    assert sum(p.nbytes for p in model.parameters()) == before
    assert torch.equal(weight, copy)


def test_without_a_kernel_a_tied_head_costs_one_more_table(monkeypatch):
    monkeypatch.setattr(layers.table, "lacking", lambda weight: "no kernel")
    model = build("llama", tie_word_embeddings=True)
    before = sum(p.nbytes for p in model.parameters())
    weight = model.model.embed_tokens.weight
    layers.pack(model, always)
    assert sum(p.nbytes for p in model.parameters()) == before + weight.nbytes
    assert model.model.embed_tokens.weight is weight


def test_what_the_choice_leaves_stays_as_it_is():
    model = build("llama")
    heads = {model.lm_head, *(layer.self_attn.k_proj for layer in model.model.layers)}
    layers.pack(model, lambda plain, packed: plain not in heads)
    assert {m for m in model.modules() if type(m) is nn.Linear} == heads
    assert layers.path(model) == "oneDNN packed, the library's for 48x160, 48x32"


def test_small_layers_and_other_devices_stay(monkeypatch):
    def unasked(plain, packed):
        raise AssertionError("asked")

    model = build("llama")
    monkeypatch.setattr(layers, "SMALLEST", 1 << 16)
    layers.pack(model, unasked)
    monkeypatch.setattr(layers, "SMALLEST", 0)
    layers.pack(build("llama").to("meta"), unasked)
    layers.pack(build("llama").half(), unasked)
    monkeypatch.setattr(layers, "lacking", lambda dtype: "nothing to pack with")
    layers.pack(model, unasked)
    assert layers.path(model) == "the library's"
    assert layers.prospect(torch.float32).startswith("the library's: nothing to pack with; ")


@pytest.mark.parametrize("tied", [False, True])
def test_the_librarys_layers_are_back_inside_the_block_only(tied):
    model = build("qwen2", tie_word_embeddings=tied)
    before = {name: p.clone() for name, p in model.named_parameters()}
    names = [name for name, _ in model.named_modules()]
    layers.pack(model, always)
    with layers.unpacked(model):
        assert kinds(model) == {nn.Linear}
        assert layers.path(model) == "the library's"
        found = dict(model.named_parameters())
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], before[name]) for name in before)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert kinds(model) == {PackedLinear}
    with pytest.raises(IndexError), layers.unpacked(model):
        model.model.embed_tokens(torch.tensor([10**6]))
    assert kinds(model) == {PackedLinear}
    ours = tied and table.lacking(before["model.embed_tokens.weight"]) is None
    assert layers.path(model) == "oneDNN packed" + f", {layers.TABLE}" * ours
    assert [name for name, _ in model.named_modules()] == names


def test_what_is_timed_as_the_librarys_is_the_librarys(prompt):
    """Its forward and its ``generate`` meet plain layers; the engine meets packed ones."""
    model = build("llama")
    layers.pack(model, always)
    engine, seen = Engine(model), []
    head = model.model.norm.register_forward_hook(lambda *_: seen.append(kinds(model)))
    library = Library(model, engine.device)
    library.forward_ms([prompt.ids], head=True)
    prefill = engine.full_prefill(prompt)
    library.decode([*prompt.ids, prefill.first_token], engine.cache.kv[:, :, :, : len(prompt)], 2)
    head.remove()
    assert seen == [{nn.Linear}, {PackedLinear}, {nn.Linear}, {nn.Linear}]
    assert kinds(model) == {PackedLinear}


def test_loading_packs_after_the_fingerprint_is_taken(tmp_path, monkeypatch):
    model = build("llama")
    model.save_pretrained(tmp_path)
    source = ModelSource("tiny", str(tmp_path), is_local=True)
    pack = layers.pack
    monkeypatch.setattr(weights.layers, "pack", lambda model: pack(model, always))
    loaded = load(source, Tokenizer(), device="cpu")
    assert kinds(loaded.model) == {PackedLinear}
    assert loaded.fingerprint == weights.weight_fingerprint(model)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
