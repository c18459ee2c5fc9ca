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
    "graph": "a token is decoded by replaying a CUDA graph",
    "compile": "norms and MLPs run as torch.compile makes them",
}


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
