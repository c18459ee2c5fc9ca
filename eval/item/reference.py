"""What an item's methods are held against: its full prefill and the answer after it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eval.variants import Where
from models.engine import Prefill
from models.truth import Truth
from stage.session import Stored


@dataclass
class Reference:
    """The full prefill of one item and its own greedy answer, and what its methods share.

    Attributes
    ----------
    tokens : the answer. forced : the answer with the stop token that ended it.
    logits : ``[len(forced), vocabulary]`` along it: methods are compared there.
    truth : the full prefill's states, where deviations or oracles ask for them.
    stored : the item's files of stage 2, by where they lie.
    load_ms : reading them from disk, where methods share one load; by the same.
    kept : whether an earlier run decoded the answer.
    """

    prefill: Prefill
    text: str
    score: float | None
    tokens: list[int]
    forced: list[int]
    logits: Tensor
    tpot_ms: float | None
    truth: Truth | None
    stored: dict[Where, Stored]
    load_ms: dict[Where, float]
    kept: bool
