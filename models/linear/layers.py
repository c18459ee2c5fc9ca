"""A model's linear layers, packed where that was found to pay, and plain again for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from models.heap import give_back
from models.linear.choice import Choices
from models.linear.packed import PackedLinear, lacking

LIBRARY, PACKED = "the library's", "oneDNN packed"
# Weights of a layer below which it stays as it is: they fit into a core's cache, and a call costs
# more than what it reads.
SMALLEST = 1 << 16

Choose = Callable[[nn.Linear, PackedLinear], bool]


def pack(model: Any, choose: Choose | None = None) -> None:
    """Let every linear layer of a model on a CPU run by the faster of two paths.

    Layer by layer: the plain weight is freed before the next one is packed, so memory grows by one
    layer at most. A tied LM head is the exception, its plain weight stays as the embedding's.
    The path depends on a layer's shape and dtype alone, never on the number of rows.

    Parameters
    ----------
    choose : whether a packed layer takes a plain one's place; measured where not given.
    """
    for name, layer in _found(model, nn.Linear):
        on_cpu = layer.weight.device.type == "cpu"
        if on_cpu and layer.weight.numel() >= SMALLEST and lacking(layer.weight.dtype) is None:
            choose = choose or Choices()
            give_back()  # the plain weight before this one, or both would stay with the process
            packed = PackedLinear(layer)
            if choose(layer, packed):
                model.set_submodule(name, packed)


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The library's own linear layers inside the block, with exactly the same weights.

    What is timed as the library's runs as the library does it. Layer by layer too, both ways.
    """
    names = [name for name, _ in _found(model, PackedLinear)]
    try:
        for name in names:
            model.set_submodule(name, model.get_submodule(name).plain())
        model.tie_weights()
        yield
    finally:
        for name in names:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear):
                model.set_submodule(name, PackedLinear(layer))


def path(model: Any) -> str:
    """By which path its linear layers run, in one short line for results."""
    plain = {_shape(layer) for _, layer in _found(model, nn.Linear)}
    if not any(_found(model, PackedLinear)):
        return LIBRARY
    return f"{PACKED}, {LIBRARY} for {', '.join(sorted(plain))}" if plain else PACKED


def prospect(dtype: torch.dtype) -> str:
    """What a model of this dtype can expect on this machine's CPU, in one short line."""
    if lack := lacking(dtype):
        return f"{LIBRARY}: {lack}"
    known = Choices().shapes.values()
    if not known:
        return f"{PACKED} where that is found faster; nothing measured yet"
    won = sum(shape["packed"] for shape in known)
    return f"{PACKED} for {won} of {len(known)} shapes measured so far"


def _found(model: Any, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Layers of a kind by name; the names first, so that layers may be exchanged meanwhile."""
    for name in [name for name, module in model.named_modules() if isinstance(module, kind)]:
        yield name, model.get_submodule(name)


def _shape(layer: nn.Linear) -> str:
    return f"{layer.in_features}x{layer.out_features}"
