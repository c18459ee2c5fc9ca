"""A gated MLP in blocks of rows: what lies between its products stays in the processor's cache."""

from __future__ import annotations

from torch import Tensor, nn

PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")
ROWS = 512


class BlockedMlp(nn.Module):
    """``down(act(gate(x)) * up(x))``, as the library's MLPs of these families have it.

    The same operations in the same order; a long prompt's intermediate states, several times as
    wide as its hidden ones, never exist as a whole.

    Parameters
    ----------
    mlp : the library's module, see :func:`is_gated`. Its parts become this one's.
    """

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self._library = (mlp,)  # a tuple: not a part of this one
        for name in PARTS:
            setattr(self, name, getattr(mlp, name))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., hidden]`` → the same."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        if len(rows) <= ROWS:
            return self._run(hidden)
        out = hidden.new_empty(rows.shape)
        for block, target in zip(rows.split(ROWS), out.split(ROWS), strict=True):
            target.copy_(self._run(block))
        return out.view(hidden.shape)

    def _run(self, rows: Tensor) -> Tensor:
        product: Tensor = self.down_proj(self.act_fn(self.gate_proj(rows)).mul_(self.up_proj(rows)))
        return product

    def library(self) -> nn.Module:
        """The library's own module, with the parts that this one has now."""
        (mlp,) = self._library
        for name in PARTS:
            setattr(mlp, name, getattr(self, name))
        return mlp


def is_gated(module: nn.Module) -> bool:
    """Whether a module is the library's gated MLP: those of all families here have these parts."""
    parts = {name for name, _ in module.named_children()}
    return parts == set(PARTS) and not isinstance(module, BlockedMlp)
