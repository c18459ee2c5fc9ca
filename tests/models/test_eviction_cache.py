"""The library's models with a cache that evicts: against a cache that masks, and rows alone."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from models import eviction
from models.errors import UserError
from models.eviction.generate import evicting
from models.eviction.layer import EvictingLayer
from tests.conftest import build

ONCE = ("streaming:buffer=0", "snapkv:observe=6", "snapkv:observe=6:block=4", "h2o:buffer=0",
        "pyramidkv:observe=6", "knorm", "knorm:whole=1", "rkv:buffer=0")  # fmt: skip
ROLLING = ("streaming", "h2o", "rkv:buffer=3", "knorm:buffer=2", "snapkv:observe=6:buffer=5")
ROWS = 40


def prompt(length: int = ROWS, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 160, (1, length), generator=generator)


@torch.inference_mode()
def run(model, cache, parts, **first) -> list[torch.Tensor]:
    """Logits of passes behind each other, ``[q, vocabulary]`` each."""
    found = []
    for part in parts:
        found.append(model(part, past_key_values=cache, **first).logits[0].float())
    return found


def parts_of(ids: torch.Tensor, at: int, steps: int) -> list[torch.Tensor]:
    return [ids[:, :at], *(ids[:, n : n + 1] for n in range(at, at + steps))]


def evicted(model, spec: str, parts, **options) -> tuple[list[torch.Tensor], list[EvictingLayer]]:
    with evicting(model, eviction.build(spec, **options)) as cache:
        return run(model, cache, parts), list(cache.layers)


@pytest.mark.parametrize("spec", [*ONCE, *ROLLING, "streaming:renumber=1"])
def test_a_share_of_1_is_no_eviction_bit_for_bit(family, spec):
    model, parts = family.library, parts_of(prompt(ROWS + 6), ROWS, 6)
    expected = run(model, DynamicCache(config=model.config), parts)
    found, layers = evicted(model, spec, parts, keep=1.0)
    assert all(map(torch.equal, found, expected))
    assert [layer.kept for layer in layers] == [ROWS + 6] * 4


@torch.inference_mode()
def masked(model, layers: list[EvictingLayer], parts, at: int) -> list[torch.Tensor]:
    """The same, by a cache that holds everything and hides what was evicted, head by head."""
    hidden = []
    for layer in layers:
        mask = torch.ones(1, model.config.num_attention_heads, 1, at, dtype=torch.bool)
        group = mask.shape[1] // layer.positions.shape[1]
        for head in range(mask.shape[1]):
            kept = layer.positions[0, head // group]
            mask[0, head, 0, kept[kept < at]] = False
        hidden.append(mask)

    def hide(module, args, kwargs):
        if kwargs["hidden_states"].shape[1] > 1:
            return None
        seen = torch.nn.functional.pad(
            hidden[module.layer_idx],
            (0, kwargs["past_key_values"].get_seq_length(module.layer_idx) + 1 - at),
        )
        return args, {**kwargs, "attention_mask": ~seen}

    handles = [
        layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True)
        for layer in model.model.layers
    ]
    try:
        return run(model, DynamicCache(config=model.config), parts)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("spec", ONCE)
def test_what_was_evicted_is_not_seen_and_the_rest_at_its_true_positions(family, spec):
    model, parts = family.library, parts_of(prompt(ROWS + 5), ROWS, 5)
    found, layers = evicted(model, spec, parts, keep=0.4)
    expected = masked(model, layers, parts, ROWS)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    whole = run(model, DynamicCache(config=model.config), parts)
    assert (found[-1] - whole[-1]).abs().max() > 0.05  # or nothing would have been tested


@pytest.mark.parametrize("spec", ["streaming:buffer=0", "snapkv:observe=6", "pyramidkv:observe=6"])
def test_several_tokens_at_once_behind_an_eviction_are_as_one_by_one(llama, spec):
    model, ids = llama.library, prompt(ROWS + 6)
    one, _ = evicted(model, spec, parts_of(ids, ROWS, 6), keep=0.4)
    at_once, _ = evicted(model, spec, [ids[:, :ROWS], ids[:, ROWS:]], keep=0.4)
    torch.testing.assert_close(at_once[1], torch.cat(one[1:]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", ["snapkv:observe=6", "h2o:buffer=0"])
def test_closer_the_more_is_kept(llama, spec):
    parts = parts_of(prompt(ROWS * 5 + 24), ROWS * 5, 24)
    whole = torch.cat(run(llama.library, DynamicCache(config=llama.library.config), parts)[1:])

    def distance(keep: float) -> float:
        found = torch.cat(evicted(llama.library, spec, parts, keep=keep)[0][1:])
        return float(
            (whole.softmax(-1) * (whole.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
        )

    nearly, half, little = map(distance, (0.99, 0.5, 0.05))
    assert nearly < 0.5 * half
    assert half < little


@pytest.mark.parametrize("at", ["seen", "kept"])
def test_the_order_of_rows_changes_nothing_wrong_positions_do(llama, at):
    model, ids = llama.library, prompt(ROWS + 1)
    found, _ = evicted(model, "knorm", parts_of(ids, ROWS, 1), keep=0.5)
    with evicting(model, eviction.build("knorm:keep=0.5")) as cache:
        run(model, cache, [ids[:, :ROWS]])
        for layer in cache.layers:
            order = torch.randperm(layer.kept, generator=torch.Generator().manual_seed(1))
            layer.keys, layer.values = layer.keys[:, :, order], layer.values[:, :, order]
        place = torch.tensor([[ROWS if at == "seen" else cache.first.kept]])
        (shuffled,) = run(model, cache, [ids[:, ROWS:]], position_ids=place)
    if at == "seen":
        torch.testing.assert_close(shuffled, found[1], rtol=1e-4, atol=1e-4)
    else:
        assert (shuffled - found[1]).abs().max() > 0.05


def test_rows_lie_in_temporal_order_and_know_their_positions(llama):
    model = llama.library
    for spec in (*ONCE, *ROLLING):
        _, layers = evicted(model, spec, parts_of(prompt(ROWS + 9), ROWS, 9), keep=0.4)
        for layer in layers:
            steps = layer.positions.diff(dim=-1)
            assert (steps > 0).all(), spec
            assert (layer.positions[..., -1] == ROWS + 8).all() or "knorm" in spec
            assert layer.keys.shape[1] == 2
            assert layer.get_seq_length() == ROWS + 9


@pytest.mark.parametrize("spec", [*ONCE, *ROLLING, "streaming:renumber=1"])
def test_a_padded_batch_is_its_rows_alone(llama, spec):
    """Under generate; the shortest row is shorter than windows, budgets and blocks."""
    model, lengths = llama.library, (ROWS, 23, 4)
    ids = torch.zeros(3, ROWS, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for b, length in enumerate(lengths):
        ids[b, ROWS - length :] = prompt(length, seed=b)[0]
        mask[b, ROWS - length :] = 1

    def answer(rows, attended):
        with evicting(model, eviction.build(spec, keep=0.4)) as cache:
            out = model.generate(
                rows, attention_mask=attended, past_key_values=cache, max_new_tokens=7,
                min_new_tokens=7, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            return out.sequences[:, rows.shape[1] :], torch.stack(out.logits, 1), cache.layers

    tokens, logits, layers = answer(ids, mask)
    for b, length in enumerate(lengths):
        own = ids[b : b + 1, ROWS - length :]
        expected, of, alone = answer(own, torch.ones_like(own))
        assert torch.equal(tokens[b], expected[0])
        torch.testing.assert_close(logits[b], of[0], rtol=1e-3, atol=1e-3)
        for ours, theirs in zip(layers, alone, strict=True):
            assert torch.equal(ours.positions[b][:, ours.valid[b]], theirs.positions[0])


def test_eager_attention_does_the_same():
    model, parts = build("llama"), parts_of(prompt(ROWS + 4), ROWS, 4)
    found, _ = evicted(model, "pyramidkv:observe=6", parts, keep=0.4)
    model.set_attn_implementation("eager")
    again, _ = evicted(model, "pyramidkv:observe=6", parts, keep=0.4)
    torch.testing.assert_close(torch.cat(again), torch.cat(found), rtol=1e-3, atol=1e-3)


def test_positions_inside_of_the_cache_are_those_of_a_shorter_text():
    """With a single layer keys depend on their own token alone: the kept ones are a prompt."""
    for name in ("llama", "yarn", "llama3-rope"):
        model, ids = build(name, num_hidden_layers=1), prompt(ROWS + 8)
        found, _ = evicted(model, "streaming:renumber=1:budget=12", parts_of(ids, ROWS, 8))
        for step in range(8):
            stays = torch.cat([ids[:, :4], ids[:, ROWS + step - 8 : ROWS + step + 1]], 1)
            expected = model(stays).logits[0, -1]
            torch.testing.assert_close(found[step + 1][0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_layers", [4, 28, 30, 32])
def test_any_number_of_layers(n_layers):
    small = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2,
             "num_key_value_heads": 1, "head_dim": 12, "initializer_range": 0.1}  # fmt: skip
    model = build("llama", num_hidden_layers=n_layers, **small)
    for spec in eviction.names():
        if policy := eviction.build(spec, keep=0.5):
            with evicting(model, policy) as cache:
                model.generate(prompt(90), past_key_values=cache, max_new_tokens=3)
            assert cache.first.seen <= 92
            assert len(cache.layers) == n_layers
            held = [layer.kept for layer in cache.layers]
            assert all(1 <= kept < 90 + 3 for kept in held)
            assert (len(set(held)) > 1) == (spec == "pyramidkv")


@pytest.mark.parametrize("spec", ["streaming", "snapkv", "pyramidkv", "knorm", "h2o", "rkv"])
def test_budgets_beyond_the_prompt_and_below_the_window(llama, spec):
    model, parts = llama.library, parts_of(prompt(ROWS + 3), ROWS, 3)
    whole = run(model, DynamicCache(config=model.config), parts)
    found, _ = evicted(model, spec, parts, budget=ROWS + 10)
    assert all(map(torch.equal, found, whole))
    for budget in (1, 3):
        _, layers = evicted(model, f"{spec}:buffer=1", parts, budget=budget)
        assert [layer.kept for layer in layers] == [budget] * 4


def test_rkv_holds_its_budget_over_2000_tokens_and_forgets_with_the_sequence():
    model = build("llama", num_hidden_layers=2, max_position_embeddings=4096)
    ids, held = prompt(2040), []
    with evicting(model, eviction.build("rkv:budget=48:buffer=16")) as cache:
        for part in parts_of(ids, 20, 2000):
            run(model, cache, [part])
            held.append(max(layer.kept for layer in cache.layers))
        assert max(held) <= 64
        assert held[-40:].count(48) >= 2  # it goes on evicting
        assert cache.get_seq_length() == 2020
        cache.reset()
        again = run(model, cache, parts_of(ids, 30, 60))
    fresh, _ = evicted(model, "rkv:budget=48:buffer=16", parts_of(ids, 30, 60))
    assert all(map(torch.equal, again, fresh))


def test_beams_are_those_without_eviction(llama):
    model, ids = llama.library, prompt()
    settings = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(ids, **settings)
    with evicting(model, eviction.build("h2o:keep=1")) as cache:
        assert torch.equal(model.generate(ids, past_key_values=cache, **settings), expected)
    with evicting(model, eviction.build("rkv:keep=0.5:buffer=2")) as cache:
        model.generate(ids, past_key_values=cache, **settings)
        assert cache.first.keys.shape[0] == 3


def test_the_hooks_serve_their_own_cache_and_go(llama):
    model, ids = llama.library, prompt()
    expected = model(ids).logits
    with evicting(model, eviction.build("knorm")) as cache:
        run(model, cache, [ids])
        assert torch.equal(model(ids).logits, expected)
    modules = [model.model, *(layer.self_attn for layer in model.model.layers)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_what_cannot_be_is_one_clear_line(llama):
    model, ids = llama.library, prompt()
    alone, behind = torch.ones(2, 2, ROWS, dtype=torch.long)
    alone[1], behind[0, -3:] = 0, 0
    for mask, match in ((alone, "pads alone"), (behind, "pad on the left")):
        with (
            evicting(model, eviction.build("knorm")) as cache,
            pytest.raises(UserError, match=match),
        ):
            model(ids.expand(2, -1), attention_mask=mask, past_key_values=cache)
    with evicting(model, eviction.build("knorm")) as cache, pytest.raises(UserError, match="mask"):
        model(ids, attention_mask=torch.zeros(1, 1, ROWS, ROWS), past_key_values=cache)
    other = build("llama")
    other.config.model_type = "gpt2"
    with pytest.raises(UserError, match="not gpt2"), evicting(other, eviction.build("knorm")):
        pass
    other = build("llama")
    other.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="sdpa or eager"), evicting(other, eviction.build("knorm")):
        pass
