"""Positions known before the question is: a file's, or attention sinks found offline.

EPIC (Hu et al., 2024, arXiv:2410.15332) traces the loss of quality to attention sinks: every chunk
was encoded with sinks of its own, and in the whole prompt they compete.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.prompt import Headers, Prompt
from models.selectors.base import BaseSelector, option, top_k

CHANCES = ("none", "length", "place")


@dataclass
class Selector(BaseSelector):
    """The positions of ``positions``, or the top-k attention sinks and the question.

    ``positions`` is a JSON file: ``{item id: [global positions]}``. It names *all* positions to
    recompute, the question's too where they are wanted, whatever the rate; the last token is always
    computed. Without a file the k document tokens that drew most attention from their own chunk
    (stage 2 with ``SINKS=1``), and the question. Cost: reading them.

    A chunk's attention sums to 1, so that each token of a short chunk draws more. ``chance`` says
    by what a token's share is divided: ``length``, the mean share in its chunk; ``place``, its
    share if every token attended evenly to itself and those before it; ``none``, nothing. What the
    choice does is measured in docs/results.md.
    """

    positions: str = option("", "attnlink: JSON file of positions by item id")
    chance: str = option("length", "attnlink: weigh a token against chance: length, place, none")
    _by_item: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)
    _digest: str = field(default="", init=False, repr=False)

    adds_question = False

    def __post_init__(self) -> None:
        if self.chance not in CHANCES:
            raise UserError(f"CHANCE is {', '.join(CHANCES)}, not {self.chance!r}")
        if self.positions:
            if self.chance != type(self).chance:
                raise UserError(f"CHANCE={self.chance} is for sinks, and POSITIONS= names others")
            self._by_item, self._digest = _read(Path(self.positions))

    @property
    def knows_rate(self) -> bool:
        return not self.positions

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.positions else ("sinks",)

    def identity(self) -> dict[str, Any]:
        if self.positions:
            return {"positions": self._digest}
        return {"positions": None, "chance": self.chance}

    def check_item(self, item_id: str, prompt: Prompt) -> None:
        if self.positions:
            self._positions(item_id, len(prompt))

    def _positions(self, item_id: str, n: int) -> list[int]:
        if item_id not in self._by_item:
            raise UserError(
                f"POSITIONS={self.positions} has no item {item_id}; add it, or leave POSITIONS= "
                "out for attention sinks found offline"
            )
        outside = [p for p in self._by_item[item_id] if not 0 <= p < n]
        if outside:
            raise UserError(
                f"POSITIONS={self.positions}: position {outside[0]} of item {item_id} is outside "
                f"its {n} tokens; was the file made for another chunking?"
            )
        return self._by_item[item_id]

    def select(self, probe: Probe) -> Tensor:
        """Document and question positions."""
        n = len(probe.prompt)
        if self.positions:
            chosen = sorted({*self._positions(probe.item_id, n), n - 1})
            return torch.tensor(chosen, device=probe.device)
        scores = probe.scores("sinks")
        if self.chance != "none":
            scores = scores / by_chance(probe.prompt, self.chance, probe.headers).to(scores)
        sinks = probe.candidates[top_k(scores, probe.budget)]
        return torch.cat([sinks, torch.arange(*probe.prompt.question, device=probe.device)])


def by_chance(prompt: Prompt, kind: str, headers: Headers) -> Tensor:
    """What each document token draws of its chunk's attention by chance, float64 ``[|S|]``.

    A share is one of all n rows of a segment, those of the header in front of a chunk among them:
    ``length``: 1/n. ``place``: (1/n)·Σ_{i≥j} 1/(i+1) of the j-th of n, what uniform causal
    attention gives it.
    """
    shares = []
    for index, (start, end) in enumerate(prompt.chunks):
        # What begins the prompt was captured without one.
        front = headers.before(index) if start else 0
        if kind == "length":
            n = max(front + end - start, 1)
            shares.append(torch.full((end - start,), 1 / n, dtype=torch.float64))
            continue
        rows = 1 / torch.arange(1, front + end - start + 1, dtype=torch.float64)
        shares.append(rows.flip(0).cumsum(0).flip(0)[front:] / max(len(rows), 1))
    return torch.cat([torch.empty(0, dtype=torch.float64), *shares])


def _read(path: Path) -> tuple[dict[str, list[int]], str]:
    """The file's positions by item, and its hash."""
    try:
        content = path.read_bytes()
        by_item = json.loads(content)
        for positions in by_item.values():
            if not isinstance(positions, list) or any(type(p) is not int for p in positions):
                raise TypeError("not lists of integers")
    except OSError as error:
        raise UserError(f"POSITIONS={path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"POSITIONS={path} must be JSON of the form {{item id: [positions]}}"
        ) from None
    return by_item, hashlib.sha256(content).hexdigest()[:16]
