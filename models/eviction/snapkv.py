"""What the prompt's last tokens attend to (SnapKV; Li et al., 2024, arXiv:2404.14469)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.eviction.attention import logits, pooled, require_pooling, weights
from models.eviction.base import BasePolicy, Rows
from models.extension import option


@dataclass
class Policy(BasePolicy):
    """score_n = pool_n(group(Σ_i softmax_n(q_i·k_n))), i the last ``observe`` tokens, which stay.

    Weights are over all keys that a query sees; the votes of the query heads that share a K/V head
    are averaged (or the largest taken); pooling runs over the rows in front of the window alone.
    With ``block`` > 1 whole blocks of so many tokens stay, by their mean; where the room is no
    multiple, the next best block's latest tokens fill it.

    Between the lines: the paper pools per query head, we per K/V head. At the edges only neighbours
    that there are count, where the published code counts zeros. A room smaller than the window
    holds its latest tokens.

    Cost: one product of the window's queries with all keys, a layer.
    """

    observe: int = option(32, "snapkv, pyramidkv: tokens of the observation window (32)")
    kernel: int = option(5, "snapkv, pyramidkv, rkv: neighbours that are pooled (5; rkv: 7)")
    pooling: str = option("avg", "snapkv, pyramidkv: avg or max over neighbours (avg)")
    block: int = option(1, "snapkv, pyramidkv: tokens that stay or go together (1)")
    group: str = option("mean", "snapkv, pyramidkv: mean or max over a K/V head's queries (mean)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_pooling(self.kernel, self.pooling)
        for name in ("observe", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.upper()}={getattr(self, name)} must be at least 1")
        if self.group not in ("mean", "max"):
            raise UserError(f"GROUP is mean or max, not {self.group!r}")

    @property
    def window(self) -> int:
        return self.observe

    def score(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``."""
        valid, size = rows.valid, rows.keys.shape[2]
        start = size - rows.last.shape[2]
        products = logits(rows.last, rows.keys, valid, rows.scale, start)
        votes = weights(products, valid, start).sum(3)
        votes = votes.mean(2) if self.group == "mean" else votes.amax(2)
        before = valid & (torch.arange(size, device=valid.device) < start)
        scores = pooled(votes, before, self.kernel, self.pooling)
        if self.block > 1:
            scores = block_means(scores, before, self.block)
        scores = scores.masked_fill(~before[:, None], torch.inf)
        return scores.masked_fill(~valid[:, None], -torch.inf)


def block_means(scores: Tensor, among: Tensor, block: int) -> Tensor:
    """Each score replaced by the mean of its block, counted from the first row of ``among``.

    Parameters
    ----------
    scores : ``[B, H_kv, N]``. among : bool ``[B, N]``. The last block holds what is left.
    """
    number = ((among.cumsum(-1) - 1).clamp(min=0) // block)[:, None].expand_as(scores)
    part = among[:, None].expand_as(scores).to(scores.dtype)
    kept = scores.masked_fill(~among[:, None], 0.0)
    total = torch.zeros_like(scores).scatter_add_(-1, number, kept)
    count = torch.zeros_like(scores).scatter_add_(-1, number, part)
    return (total / count.clamp(min=1)).gather(-1, number)
