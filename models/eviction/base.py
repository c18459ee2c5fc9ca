"""What an eviction policy is: which cached rows of a layer stay, when, and how many."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.extension import Extension, option
from models.finite import NotFinite
from models.foreign import ask, called, told

KEEP, BUDGET, BUFFER = 0.5, 0, 0


@dataclass(frozen=True)
class Rows:
    """The rows of one layer that lie in a cache, in temporal order, and what looked at them.

    Pads stand in front of a row's tokens (:func:`require_tokens`), and so do the slots that a row
    of a batch does not fill after an eviction.

    Attributes
    ----------
    keys : ``[B, H_kv, N, D]`` as they lie in the cache: rotated, K/V heads not repeated.
    valid : bool ``[B, N]``, False where a slot holds no token.
    scale : what attention multiplies logits with.
    queries : ``[B, H, q, D]``, rotated. Of the last ``q`` slots, ``q`` at most
        :attr:`BasePolicy.window`, those of earlier passes among them; for a policy that
        :attr:`accumulates <BasePolicy.accumulates>` those of the latest pass, all of them.
    sums : float32 ``[B, H_kv, N]``, what :meth:`BasePolicy.accumulate` returned for these slots
        before the latest pass, 0 for slots that came with it; None without such a policy.
    stay : ``[B]``, how many rows will stay, filled in by :func:`chosen`.
    """

    keys: Tensor
    valid: Tensor
    scale: float
    queries: Tensor | None = None
    sums: Tensor | None = None
    stay: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """The queries; raises ValueError where there are none: the cache's mistake."""
        if self.queries is None:
            raise ValueError("this policy looks at queries, and the cache brought none")
        return self.queries


@dataclass
class BasePolicy(ABC, Extension):
    """Scores the rows of a layer; those with the highest scores stay, by K/V head.

    A policy holds no state: sums, queries and positions belong to the cache of one sequence, which
    begins anew with the next. Whoever holds the cache asks :func:`chosen` after a pass through a
    layer which rows stay, and gathers them. Kept rows keep their rotation, and the next token's
    position is the number of tokens *seen*, unless the policy :attr:`renumbers`.

    Attributes
    ----------
    accumulates : it sums something up over all passes, see :meth:`accumulate`.
    renumbers : kept keys are turned to positions ``0..k-1`` of the cache, and the next token's
        position is ``k``.
    """

    keep: float = option(KEEP, f"share of a prompt's rows that stay ({KEEP})")
    budget: int = option(BUDGET, "rows that stay, whatever the prompt's length (by keep)")
    buffer: int = option(BUFFER, "rows above these at which decoding evicts again (0: never)")

    accumulates = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"KEEP={self.keep} must be above 0 and at most 1")
        if self.budget < 0:
            raise UserError(f"BUDGET={self.budget} must be at least 1, or 0 to go by KEEP")
        if self.buffer < 0:
            raise UserError(f"BUFFER={self.buffer} must be at least 1, or 0 to evict only once")

    @property
    def window(self) -> int:
        """How many of the last queries it looks at; 0: none."""
        return 0

    @property
    def renumbers(self) -> bool:
        return False

    @abstractmethod
    def score(self, rows: Rows) -> Tensor:
        """Float32 ``[B, H_kv, N]``: the higher, the sooner a row stays.

        ``inf`` for rows that must stay, ``-inf`` where ``rows.valid`` is False. Each row of a batch
        is scored as if it were alone.
        """

    def accumulate(self, rows: Rows) -> Tensor:
        """The sums after a pass, ``[B, H_kv, N]``, from ``rows.queries`` and ``rows.sums``.

        Asked after every pass, before :meth:`target`, where :attr:`accumulates` is set.
        """
        raise TypeError(f"{type(self).__module__} accumulates nothing")

    def room(self, prompt: int, layer: int, n_layers: int) -> int | None:
        """Rows that a prompt of so many tokens may hold in this layer; None: all that come.

        ``keep`` of the prompt, rounded, at least 1; or the budget.
        """
        if self.budget:
            return self.budget
        return None if self.keep == 1 else max(1, math.floor(self.keep * prompt + 0.5))

    def target(self, resident: int, prompt: int, layer: int, n_layers: int, decoding: bool) -> int:
        """How many of a sequence's resident rows stay now, at most ``resident``.

        Parameters
        ----------
        resident : tokens of one row of the batch that lie in this layer, pads not counted.
        prompt : tokens that it had after its prefill.
        decoding : the latest pass was no prefill.

        Returns
        -------
        After a prefill :meth:`room`. In decoding too, once ``resident >= room + buffer``, which a
        prefill waits for as well where there is a buffer. Else ``resident``.
        """
        room = self.room(prompt, layer, n_layers)
        due = not decoding or self.buffer > 0
        if room is None or not due or resident < room + max(self.buffer, 1):
            return resident
        return room


def chosen(
    policy: BasePolicy, rows: Rows, prompt: Tensor, layer: int, n_layers: int, decoding: bool
) -> tuple[Tensor, Tensor] | None:
    """What stays of a layer after a pass through it, as :func:`keep` returns it; None: everything.

    Parameters
    ----------
    prompt : ``[B]``, tokens of each row after its prefill.
    decoding : the latest pass was no prefill.

    Raises
    ------
    UserError, NotFinite : as :func:`keep`, or the policy failed, or its scores are none of these
        rows; names it and says what.
    """
    require_tokens(rows.valid)
    resident = rows.valid.sum(-1)
    name = called("policy", policy)
    stay = [
        ask(name, policy.target, n, of, layer, n_layers, decoding)
        for n, of in zip(resident.tolist(), prompt.tolist(), strict=True)
    ]
    if stay == resident.tolist():
        return None
    rows = replace(rows, stay=torch.tensor(stay, device=rows.keys.device))
    return keep(_fitting(ask(name, policy.score, rows), rows, name), stay, rows.valid)


def accumulated(policy: BasePolicy, rows: Rows) -> Tensor:
    """What :meth:`BasePolicy.accumulate` returns.

    Raises
    ------
    UserError : it failed, or these are no sums of these rows.
    """
    name = called("policy", policy)
    return _fitting(ask(name, policy.accumulate, rows), rows, name)


def _fitting(found: Any, rows: Rows, name: str) -> Tensor:
    """A policy may be anybody's code: one score for all heads would pass for each head's own."""
    shape = rows.keys.shape[:3]
    fits = isinstance(found, Tensor) and found.is_floating_point() and found.shape == shape
    if not fits:
        raise UserError(f"{name} returned {told(found)}: scores and sums are floats, {list(shape)}")
    return found


def keep(
    scores: Tensor, capacity: Tensor | list[int] | int, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Indices of the rows with the highest scores, in temporal order; of equal ones the later.

    Parameters
    ----------
    scores : ``[B, H_kv, N]``.
    capacity : rows that stay, for all rows of the batch or ``[B]``.
    valid : bool ``[B, N]``.

    Returns
    -------
    indices : ``[B, H_kv, k]``, ``k`` the most that any row of the batch keeps.
    valid : bool ``[B, k]``; a row that keeps fewer has slots in front that hold no token.

    Raises
    ------
    NotFinite : a score is NaN: wherever it were sorted to would look like a choice.
    UserError : nothing would stay, or a row holds pads alone.
    """
    require_tokens(valid)
    if scores.isnan().any():
        raise NotFinite("the policy's scores hold NaN; check the model's weights")
    tokens = valid.sum(-1)
    stay = torch.as_tensor(capacity, device=valid.device).expand_as(tokens).minimum(tokens)
    if int(stay.min()) < 1:
        raise UserError("an eviction would leave no row; keep at least 1")
    size, k = valid.shape[-1], int(stay.max())
    scores = scores.masked_fill(~valid[:, None], -torch.inf)
    later_first = scores.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :k]
    indices = size - 1 - later_first
    place = torch.arange(k, device=valid.device)
    spare = (place >= stay[:, None])[:, None]  # ranks below what this row of the batch keeps
    order = torch.where(spare, indices - size, indices).sort(-1).indices
    return indices.gather(-1, order), place >= k - stay[:, None]


def require_tokens(valid: Tensor) -> None:
    """Refuse a batch row without any token, and pads behind tokens.

    Raises
    ------
    UserError
    """
    if not valid.any(-1).all():
        raise UserError("a row of the batch holds pads alone; leave it out")
    if (valid[:, :-1] & ~valid[:, 1:]).any():
        raise UserError("pads stand behind a row's tokens; pad on the left")
