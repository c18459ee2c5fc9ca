"""A model's linear layers, packed where that was found to pay, and plain again for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from models.heap import give_back
from models.linear import table
from models.linear.choice import Choices
from models.linear.mlp import BlockedMlp, is_gated
from models.linear.packed import PackedLinear, lacking
from models.linear.table import TableHead

LIBRARY, PACKED, TABLE = "the library's", "oneDNN packed", "the tied head by our kernel"
OURS = (PackedLinear, TableHead)
# Weights of a layer below which it stays as it is: they fit into a core's cache, and a call costs
# more than what it reads.
SMALLEST = 1 << 16

Choose = Callable[[nn.Linear, PackedLinear], bool]


def pack(model: Any, choose: Choose | None = None) -> None:
    """Let every linear layer of a model on a CPU run by the faster of two paths.

    Layer by layer: the plain weight is freed before the next one is packed, so memory grows by one
    layer at most. A tied LM head is read where it lies, in the embedding's table; where there is no
    kernel for that, a packed copy costs its size once more. The path depends on a layer's shape and
    dtype alone, never on the number of rows. MLPs run in blocks of rows.

    Parameters
    ----------
    choose : whether a packed layer takes a plain one's place; measured where not given.
    """
    embedded = model.get_input_embeddings().weight
    for name, layer in _found(model, nn.Linear):
        if layer.weight.device.type != "cpu" or layer.weight.numel() < SMALLEST:
            continue
        tied = layer.weight is embedded and layer.bias is None
        if tied and table.lacking(layer.weight) is None:
            model.set_submodule(name, TableHead(layer.weight))
        elif lacking(layer.weight.dtype) is None:
            choose = choose or Choices()
            give_back()  # the plain weight before this one, or both would stay with the process
            packed = PackedLinear(layer)
            if choose(layer, packed):
                model.set_submodule(name, packed)
    if embedded.device.type == "cpu":
        for name in [name for name, module in model.named_modules() if is_gated(module)]:
            model.set_submodule(name, BlockedMlp(model.get_submodule(name)))


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The library's own linear layers and MLPs inside the block, with exactly the same weights.

    What is timed as the library's runs as the library does it. Layer by layer too, both ways.
    """
    made = {name: type(layer) for kind in OURS for name, layer in _found(model, kind)}
    blocked = [name for name, _ in _found(model, BlockedMlp)]
    try:
        for name in blocked:
            model.set_submodule(name, model.get_submodule(name).library())
        for name in made:
            model.set_submodule(name, model.get_submodule(name).plain())
        model.tie_weights()
        yield
    finally:
        for name, kind in made.items():
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear):
                model.set_submodule(name, _made(kind, layer))
        for name in blocked:
            mlp = model.get_submodule(name)
            if not isinstance(mlp, BlockedMlp):
                model.set_submodule(name, BlockedMlp(mlp))


def path(model: Any) -> str:
    """By which path its linear layers run, in one short line for results."""
    plain = sorted({_shape(layer) for _, layer in _found(model, nn.Linear)})
    parts = [PACKED] if any(_found(model, PackedLinear)) else []
    if plain or not parts:
        parts.append(f"{LIBRARY} for {', '.join(plain)}" if parts else LIBRARY)
    return ", ".join([*parts, *([TABLE] if any(_found(model, TableHead)) else [])])


def prospect(dtype: torch.dtype) -> str:
    """What a model of this dtype can expect on this machine's CPU, in one short line."""
    lack = table.lacking(torch.empty(0, 1, dtype=dtype))
    head = f"no kernel for a tied head: {lack}" if lack else TABLE
    return f"{_prospect(dtype)}; {head}"


def _prospect(dtype: torch.dtype) -> str:
    if lack := lacking(dtype):
        return f"{LIBRARY}: {lack}"
    known = Choices().shapes.values()
    if not known:
        return f"{PACKED} where that is found faster, nothing measured yet"
    won = sum(shape["packed"] for shape in known)
    return f"{PACKED} for {won} of {len(known)} shapes measured so far"


def _made(kind: type[nn.Module], linear: nn.Linear) -> nn.Module:
    """One of our layers in the place of a plain one."""
    return TableHead(linear.weight) if kind is TableHead else PackedLinear(linear)


def _found(model: Any, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Layers of a kind by name; the names first, so that layers may be exchanged meanwhile."""
    for name in [name for name, module in model.named_modules() if isinstance(module, kind)]:
        yield name, model.get_submodule(name)


def _shape(layer: nn.Linear) -> str:
    return f"{layer.in_features}x{layer.out_features}"
