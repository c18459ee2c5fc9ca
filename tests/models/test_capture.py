"""Captured keys, values and surprisal, against the library run on each segment alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from models.kv import capture as capture_module
from models.kv.capture import capture
from models.kv.rotary import rotate_keys_
from models.modules import Modules
from models.prompt import Prompt
from tests.conftest import Family, build, random_prompt

SINK = [1]


def alone(family: Family, prompt: Prompt, sink: list[int]):
    """Every segment through the library's own forward, ``sink`` in front of all but the first.

    Yields its span, its rotated keys and its values ``[L, H_kv, n, D]`` without the sink's rows,
    the positions that they were rotated at, and its logits.
    """
    for start, end in prompt.segments:
        if start == end:
            continue
        header = sink if start > 0 else []
        cache = DynamicCache()
        ids = torch.tensor([[*header, *prompt.ids[start:end]]])
        logits = family.library(ids, past_key_values=cache, use_cache=True).logits[0].float()
        body = slice(len(header), None)
        keys = torch.stack([layer.keys[0, :, body] for layer in cache.layers])
        values = torch.stack([layer.values[0, :, body] for layer in cache.layers])
        yield (start, end), keys, values, torch.arange(ids.shape[1])[body], logits[body]


def assert_is_the_librarys(family: Family, prompt: Prompt, sink: list[int]) -> None:
    captured = capture(family.engine.modules, prompt, sink, ["surprisal"])
    shape = (2, 4, 2, len(prompt), 16)
    assert captured.kv.shape == shape
    for (start, end), keys, values, positions, logits in alone(family, prompt, sink):
        ours = captured.kv[:, :, :, start:end].clone()
        cos, sin = family.library.model.rotary_emb(ours, positions[None])
        rotate_keys_(ours[0], cos[0], sin[0])
        assert torch.allclose(ours[0], keys, atol=1e-4)
        assert torch.allclose(ours[1], values, atol=1e-4)
        tokens = torch.tensor(prompt.ids[start:end])
        scores = captured.scores["surprisal"][start:end]
        assert scores[0] == 0
        wanted = cross_entropy(logits[:-1], tokens[1:], reduction="none")
        assert torch.allclose(scores[1:], wanted, atol=1e-3)


@pytest.mark.parametrize("sink", [[1], [1, 5, 9], []])
def test_every_segment_is_what_the_library_makes_of_it_alone(family, sink):
    assert_is_the_librarys(family, random_prompt(9, [40, 1, 40, 33], 17), sink)


def test_without_a_prefix_the_first_chunk_gets_the_sink_only_if_it_is_not_first(llama):
    assert_is_the_librarys(llama, random_prompt(0, [30, 30], 7), SINK)


@pytest.mark.parametrize(
    "prompt",
    [random_prompt(3, [], 5), random_prompt(0, [], 5), Prompt.join([1], [[], [4, 0, 5], []], [6])],
    ids=["no chunks", "a question only", "empty chunks"],
)
def test_prompts_at_the_edges(llama, prompt):
    assert_is_the_librarys(llama, prompt, SINK)


def test_token_0_is_an_ordinary_token(llama):
    zeros = Prompt.join([1, 0, 0], [[0] * 20, [0, 5, 0]], [0, 7])
    assert_is_the_librarys(llama, zeros, SINK)


@pytest.mark.parametrize("backend", ["native", "blocked", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_change_not_one_bit(backend, dtype):
    """A chunk is kept once for whoever holds it, so nothing may depend on who came first."""
    modules = Modules(build("qwen3").to(dtype), backend)
    prompt = random_prompt(9, [70, 70, 33, 8, 1, 111], 17)
    together = capture(modules, prompt, SINK, ["surprisal", "sinks"])
    for start, end in prompt.chunks:
        single = Prompt.join([1], [prompt.ids[start:end]], [5])
        alone = capture(modules, single, SINK, ["surprisal", "sinks"])
        body = slice(*single.chunks[0])
        assert torch.equal(together.kv[..., start:end, :], alone.kv[..., body, :])
        for name, scores in together.scores.items():
            assert torch.equal(scores[start:end], alone.scores[name][body])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_surprisal_does_not_depend_on_how_many_rows_meet_the_head_at_once(llama, monkeypatch, rows):
    prompt = random_prompt(9, [70, 64, 65], 17)
    whole = capture(llama.engine.modules, prompt, SINK, ["surprisal"]).scores["surprisal"]
    monkeypatch.setattr(capture_module, "LOGIT_ROWS", rows)
    again = capture(llama.engine.modules, prompt, SINK, ["surprisal"]).scores["surprisal"]
    assert torch.allclose(again, whole, atol=1e-4)


def test_a_segment_does_not_see_the_others(llama):
    """Another neighbour leaves a chunk's rows as they were."""
    first = random_prompt(9, [50, 50], 12, seed=1)
    segments = [first.ids[slice(*span)] for span in first.segments]
    other = random_prompt(9, [50, 50], 12, seed=2)
    mixed = Prompt.join(segments[0], [other.ids[slice(*other.chunks[0])], segments[2]], segments[3])
    left = capture(llama.engine.modules, first, SINK).kv
    right = capture(llama.engine.modules, mixed, SINK).kv
    for start, end in (first.prefix, first.chunks[1], first.question):
        assert torch.equal(left[:, :, :, start:end], right[:, :, :, start:end])
    assert not torch.allclose(left[:, 1:, :, 9:59], right[:, 1:, :, 9:59], atol=0.01)


def test_surprisal_is_not_computed_unasked(llama, prompt):
    assert capture(llama.engine.modules, prompt, SINK).scores == {}


def test_the_dtype_is_the_models():
    modules = Modules(build("llama").bfloat16())
    captured = capture(modules, random_prompt(3, [20], 5), SINK, ["surprisal"])
    assert captured.kv.dtype == torch.bfloat16
    assert captured.scores["surprisal"].dtype == torch.float32


class LayerFailure(Exception):
    pass


def test_hooks_are_removed_even_when_a_layer_raises(family, prompt):
    def fail(module, args):
        raise LayerFailure

    modules = family.engine.modules
    attention = [part for layer in modules.layers for part in layer.self_attn.modules()]
    assert not any(part._forward_hooks for part in attention)
    handle = modules.layers[2].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(LayerFailure):
            capture(modules, prompt, SINK)
    finally:
        handle.remove()
    assert not any(part._forward_hooks for part in attention)
    before = capture(modules, prompt, SINK).kv
    assert not any(part._forward_hooks for part in attention)
    assert torch.equal(capture(modules, prompt, SINK).kv, before)
