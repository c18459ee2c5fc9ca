"""What a selector returned, looked at before anything is computed from it.

A selector may be anybody's code: positions out of range, twice the same, or more than the budget
would give figures that look better than the method is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.foreign import ask, called
from models.probe import Probe
from models.selectors import BaseSelector

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def choose(probe: Probe, selector: BaseSelector) -> Tensor:
    """Positions to recompute, the question's too where the selector leaves them to the engine.

    Returns
    -------
    int64 ``[R]``, sorted, unique, on the probe's device.

    Raises
    ------
    UserError : the selector failed, or returned something else than :meth:`BaseSelector.select`
        may; names it and says what.
    """
    name = called("selector", selector)
    returned = ask(name, selector.select, probe)
    positions = _integers(returned, name).to(probe.device, torch.int64).sort().values
    trouble = _trouble(positions, probe, selector)
    if trouble:
        raise UserError(f"{name} {trouble}")
    if selector.adds_question:  # behind all documents, so that the order stays
        question = torch.arange(*probe.prompt.question, device=probe.device)
        positions = torch.cat([positions, question])
    return positions


def _integers(returned: Any, name: str) -> Tensor:
    if not isinstance(returned, Tensor):
        raise UserError(f"{name} returned a {type(returned).__name__}, not a tensor")
    if returned.dtype not in INTEGERS or returned.dim() != 1:
        raise UserError(
            f"{name} returned {returned.dtype} {list(returned.shape)}: positions are "
            "integers in one dimension"
        )
    return returned


def _trouble(positions: Tensor, probe: Probe, selector: BaseSelector) -> str | None:
    """What is wrong with these sorted positions, or None; asks the device once."""
    n, (first, last) = len(probe.prompt), probe.prompt.documents
    documents = (positions >= first) & (positions < last)
    repeated = positions[1:] == positions[:-1]
    ends = [positions[0], positions[-1]] if len(positions) else []
    low, high, count, asking, repeats = torch.stack(
        [
            *(ends or [positions.new_tensor(last - 1)] * 2),
            documents.sum(),
            (positions >= last).sum(),
            repeated.sum(),
        ]
    ).tolist()
    if repeats:
        again = int(positions[1:][repeated][0])
        return f"chose position {again} more than once"
    if selector.adds_question:
        allowed, whose = (first, last), "the documents'"
    else:
        allowed, whose = (0, n), "the prompt's"
    if len(positions) and not (allowed[0] <= low and high < allowed[1]):
        outside = low if low < allowed[0] else high
        return f"chose position {outside}, outside {whose} {allowed[0]} to {allowed[1] - 1}"
    if selector.knows_rate and count > probe.budget:
        return f"chose {count} document positions, and the budget is {probe.budget}"
    if selector.adds_question:
        return None
    if not len(positions) or high != n - 1:
        return f"left out the last position, {n - 1}, which every answer begins with"
    if probe.looked and asking < probe.n_question:
        return "looked at a layer, so that it must choose every question position (adds_question)"
    return None
