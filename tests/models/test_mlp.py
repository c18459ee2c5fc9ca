"""MLPs in blocks of rows: the library's own results, and its own modules back for comparisons."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.linear import layers, mlp
from models.linear.mlp import BlockedMlp, is_gated
from tests.conftest import FAMILIES, build


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(mlp, "ROWS", 7)


def mlps(model) -> list[nn.Module]:
    return [layer.mlp for layer in model.model.layers]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rows", [1, 7, 8, 23])
def test_a_block_is_what_the_library_makes_of_its_rows(name, rows):
    library = mlps(build(name, **({"mlp_bias": True} if name == "llama" else {})))[1]
    hidden = torch.randn(1, rows, library.gate_proj.in_features)
    kept = hidden.clone()
    found = BlockedMlp(library)(hidden)
    right = torch.cat([library(block) for block in hidden.split(7, 1)], 1)
    assert torch.equal(found, right)
    assert torch.equal(hidden, kept)
    torch.testing.assert_close(found, library(hidden))


def test_no_state_between_its_products_is_longer_than_a_block():
    ours = BlockedMlp(mlps(build("llama"))[0])
    seen = []
    for part in (ours.gate_proj, ours.up_proj, ours.act_fn):
        part.register_forward_hook(
            lambda module, args, out: seen.append(out.numel() // out.shape[-1])
        )
    ours(torch.randn(1, 23, ours.gate_proj.in_features))
    assert seen == [7] * 9 + [2] * 3


def test_every_mlp_of_a_model_and_nothing_else_is_taken():
    model = build("qwen3")
    taken = [module for module in model.modules() if is_gated(module)]
    assert taken == mlps(model)
    layers.pack(model, lambda plain, packed: False)
    assert all(isinstance(module, BlockedMlp) for module in mlps(model))
    assert not any(is_gated(module) for module in model.modules())
    layers.pack(model, lambda plain, packed: False)
    assert not any(isinstance(part, BlockedMlp) for m in mlps(model) for part in m.children())


def test_the_librarys_own_are_back_inside_the_block_with_its_own_layers(monkeypatch):
    monkeypatch.setattr(layers, "SMALLEST", 0)
    model = build("llama")
    before, weights = mlps(model), [m.up_proj.weight.clone() for m in mlps(model)]
    layers.pack(model, lambda plain, packed: True)
    for _ in range(2):
        with layers.unpacked(model):
            assert mlps(model) == before
            assert all(type(m.up_proj) is nn.Linear for m in before)
            assert all(
                torch.equal(m.up_proj.weight, w) for m, w in zip(before, weights, strict=True)
            )
        assert all(isinstance(module, BlockedMlp) for module in mlps(model))
