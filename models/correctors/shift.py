"""The part of the change that is common to a chunk, added to the rows that are not recomputed."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.correctors.base import KEYS, VALUES, BaseCorrector, Change
from models.errors import UserError
from models.extension import option

KINDS = {"keys": (KEYS,), "values": (VALUES,), "both": (KEYS, VALUES)}


@dataclass
class Corrector(BaseCorrector):
    """Median of the change over the recomputed rows, by head and dimension, times n / (n + shrink).

    A chunk that was captured alone lacks all that stands in front of it in the prompt. Part of what
    that changes is the same for all of its rows, so that some of them tell it of the others. The
    factor shrinks what few rows ``n`` say. A median, since single rows change much more than most.

    Ours. The rows must stand for their chunk: where they are its first, as ``epic``'s, it harms.

    Cost: a median over the recomputed rows, and one addition to each row of their chunks.
    """

    what: str = option("keys", "correctors: what is corrected: keys, values or both (keys)")
    shrink: float = option(8.0, "correctors: rows at which half of the common change is added (8)")

    def __post_init__(self) -> None:
        if self.what not in KINDS:
            raise UserError(f"WHAT is {', '.join(KINDS)}, not {self.what!r}")
        if not (math.isfinite(self.shrink) and self.shrink >= 0):
            raise UserError(f"SHRINK={self.shrink} must be a number, at least 0")

    def correct(self, change: Change) -> dict[int, Tensor]:
        """``[H_kv, D]`` for keys, values or both."""
        weight = change.rows / (change.rows + self.shrink)
        return {kind: median(change.of(kind)) * weight for kind in KINDS[self.what]}


def median(rows: Tensor) -> Tensor:
    """Float32 ``[H, n, D]`` → ``[H, D]``; of an even number the mean of the middle two.

    On a CPU by numpy's partition: PyTorch's median takes up to ten times as long there.
    """
    middle = sorted({(rows.shape[1] - 1) // 2, rows.shape[1] // 2})
    if rows.device.type == "cpu":
        parted = np.partition(rows.transpose(1, 2).contiguous().numpy(), middle)
        return torch.from_numpy(parted[..., middle].mean(-1))
    return rows.sort(1).values[:, middle].mean(1)
