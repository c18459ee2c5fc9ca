"""What the engine may do faster on CUDA: each a switch of its own, off until a GPU has told.

``FAST=events,graph`` turns on what is named. Every switch changes how a figure comes about, so it
is part of what a gate and a run are named by; the gate runs with the same switches.
"""

from __future__ import annotations

from collections.abc import Collection

from models.errors import UserError

SWITCHES = {
    "events": "parts of a TTFT are told by events on the device: the host waits once, at the end",
    "plan": "attention of scattered rows is planned before the first layer instead of within it",
    "ahead": "KVs in pinned memory are asked for a few layers ahead instead of all at once",
    "graph": "a token is decoded by replaying a CUDA graph",
    "tiles": "fewer rows are recomputed, so that they fill whole tiles of the products' kernels",
    "compile": "norms and MLPs run as torch.compile makes them",
}
# Rows of a tile of the usual half-precision kernels. Products over a few rows more take as long as
# over a whole tile more, or over a whole wave of them, one for every processor of the GPU.
TILE = 128
AHEAD = 4  # layers: enough for a copy to end while earlier ones compute


def whole_tiles(budget: int, size: int, others: int, tile: int) -> int:
    """The most rows within a budget that, with others that run too, fill whole tiles.

    The budget itself where all rows are wanted, or where not even one tile is filled.

    Parameters
    ----------
    budget : rows that may be chosen, of ``size``. others : rows that are run beside them.
    tile : rows of a tile; 1 cuts nothing.
    """
    cut = (budget + others) // tile * tile - others
    return budget if budget == size or cut < 1 else cut


def ahead(switches: Collection[str]) -> int | None:
    """How many layers ahead copies are asked for; None: all at once."""
    return AHEAD if "ahead" in switches else None


def check(names: Collection[str]) -> frozenset[str]:
    """The switches that are on.

    Raises
    ------
    UserError : there is no such switch.
    """
    for name in names:
        if name not in SWITCHES:
            raise UserError(f"FAST={name} is no switch: use {', '.join(SWITCHES)}")
    return frozenset(names)
