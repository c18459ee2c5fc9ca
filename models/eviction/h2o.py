"""Heavy hitters: attention received so far (H2O; Zhang et al., 2023, arXiv:2306.14048)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.eviction.attention import received
from models.eviction.base import BasePolicy, Rows
from models.extension import option


@dataclass
class Policy(BasePolicy):
    """score_n = Σ over all queries so far of softmax_n(q·k_n); a share of the room is the latest's.

    Sums go on through decoding and move with the rows that stay. The query heads that share a K/V
    head are added up.

    Between the lines: the paper shares the room evenly between heavy and recent rows, so ``recent``
    is a half; rounded down. Later rows had fewer queries to be seen by, which is why they need it.

    Cost: attention a second time, of every query over all rows.
    """

    buffer: int = option(1, "rows above these at which decoding evicts again (h2o: 1)")
    recent: float = option(0.5, "h2o: share of the room that holds the latest rows (0.5)")

    accumulates = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.recent <= 1:
            raise UserError(f"RECENT={self.recent} must be between 0 and 1")

    def accumulate(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``."""
        more = received(rows.last, rows.keys, rows.valid, rows.scale)
        return more if rows.sums is None else rows.sums + more

    def score(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``: the sums, ``inf`` for the latest rows."""
        if rows.sums is None or rows.stay is None:
            raise ValueError("the cache brought no sums, or did not say how many rows will stay")
        recent = (self.recent * rows.stay).long()
        age = rows.keys.shape[2] - 1 - torch.arange(rows.keys.shape[2], device=recent.device)
        latest = (age < recent[:, None])[:, None]
        return rows.sums.masked_fill(latest, torch.inf).masked_fill(
            ~rows.valid[:, None], -torch.inf
        )
