"""Attention sinks and the latest rows (StreamingLLM; Xiao et al., 2023, arXiv:2309.17453)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.eviction.base import BasePolicy, Rows
from models.extension import option


@dataclass
class Policy(BasePolicy):
    """The ``first`` tokens stay, attention sinks as a rule, and of the others the latest.

    The paper counts positions inside of the cache: the latest token's is the number of kept rows.
    That is ``renumber=1``; kept keys are turned back to 0..k-1 at every eviction. By default they
    keep the positions that they had in the text, as with every other policy here.

    Between the lines: a cache smaller than these holds the latest of them. In half precision,
    turning at every step adds up roundings; a larger ``buffer`` turns less often.

    Cost: none for scores.
    """

    buffer: int = option(1, "rows above these at which decoding evicts again (streaming: 1)")
    first: int = option(4, "streaming: so many first tokens always stay, attention sinks (4)")
    renumber: bool = option(False, "streaming: 1 counts positions inside of the cache")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0:
            raise UserError(f"FIRST={self.first} must be at least 0")

    @property
    def renumbers(self) -> bool:
        return self.renumber

    def score(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``: a row's place among its sequence's, ``inf`` for the first."""
        place = rows.valid.cumsum(-1) - 1
        scores = place.float().masked_fill(place < self.first, torch.inf)
        scores = scores.masked_fill(~rows.valid, -torch.inf)
        return scores[:, None].expand(-1, rows.keys.shape[1], -1)
