"""Importance against redundancy, while decoding (R-KV; Cai et al., 2025, arXiv:2505.24133)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.eviction.attention import logits, pooled, require_pooling, weights
from models.eviction.base import BasePolicy, Rows
from models.extension import option

FORMS = ("decode", "batch")
BLOCK = 512  # rows whose cosines with all others are held at a time


@dataclass
class Policy(BasePolicy):
    """Z = mix·I - (1 - mix)·R, I the importance of a row and R its redundancy; the latest stay.

    I: of the last ``observe`` queries, the largest logit of a K/V head's group, softmax over the
    rows that a query sees, mean over the queries, maximum over ``kernel`` neighbours.
    R: softmax over the rows of a row's mean cosine with all others. Where rows are nearer to each
    other than ``near``, the ``spare`` latest of them do not count as redundant to the others.
    ``form=batch``, as used where a student is trained on what stays: S = mix·I + (1 - mix)·R with
    R = softmax of *minus* the mean cosine, none spared.

    Between the lines: the observed rows always stay; cosines are of the keys as they lie in the
    cache, rotated; a row is no neighbour of itself, in sum or in number; a row without a near one
    spares none. The prompt is rows like any other.

    Cost: cosines of all pairs of rows, once every ``buffer`` tokens.
    """

    buffer: int = option(128, "rows above these at which decoding evicts again (rkv: 128)")
    observe: int = option(8, "rkv: last queries that tell importance; their rows stay (8)")
    kernel: int = option(7, "snapkv, pyramidkv, rkv: neighbours that are pooled (5; rkv: 7)")
    mix: float = option(0.07, "rkv: weight of importance (0.07)")
    near: float = option(0.5, "rkv: cosine above which keys are near-duplicates (0.5)")
    spare: int = option(1, "rkv: latest near-duplicates that do not count (1)")
    form: str = option("decode", "rkv: decode or batch, which adds softmax(-cosine) (decode)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_pooling(self.kernel, "max")
        if self.observe < 1:
            raise UserError(f"OBSERVE={self.observe} must be at least 1")
        if self.spare < 0:
            raise UserError(f"SPARE={self.spare} must be at least 0")
        if not 0 <= self.mix <= 1:
            raise UserError(f"MIX={self.mix} must be between 0 and 1")
        if self.form not in FORMS:
            raise UserError(f"FORM is {' or '.join(FORMS)}, not {self.form!r}")

    @property
    def window(self) -> int:
        return self.observe

    def score(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``."""
        important = importance(rows, self.kernel)
        if self.form == "batch":
            likeness = mean_cosine(rows.keys, rows.valid)
            scores = self.mix * important + (1 - self.mix) * _softmax(-likeness, rows.valid)
        else:
            likeness = mean_cosine(rows.keys, rows.valid, self.near, self.spare)
            scores = self.mix * important - (1 - self.mix) * _softmax(likeness, rows.valid)
        start = rows.keys.shape[2] - rows.last.shape[2]
        scores[..., start:] = torch.inf
        return scores.masked_fill(~rows.valid[:, None], -torch.inf)


def importance(rows: Rows, kernel: int) -> Tensor:
    """I, ``[B, H_kv, N]``, meaningful where ``rows.valid``."""
    start = rows.keys.shape[2] - rows.last.shape[2]
    largest = logits(rows.last, rows.keys, rows.valid, rows.scale, start).amax(2)
    looked = weights(largest, rows.valid, start).sum(2)
    queries = rows.valid[:, start:].sum(-1)[:, None, None]
    return pooled(looked / queries, rows.valid, kernel, "max")


def mean_cosine(keys: Tensor, valid: Tensor, near: float = 1.0, spare: int = 0) -> Tensor:
    """Mean cosine of each key with the other valid ones of its head, float32 ``[B, H_kv, N]``.

    Parameters
    ----------
    near, spare : of every row's near-duplicates, those with a cosine above ``near``, the ``spare``
        latest do not count it.
    """
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    unit = unit.masked_fill(~valid[:, None, :, None], 0.0)
    total = torch.zeros(keys.shape[:3], device=keys.device)
    slots = torch.arange(keys.shape[2], device=keys.device)
    for at in range(0, len(slots), BLOCK):
        cosines = unit[:, :, at : at + BLOCK] @ unit.transpose(2, 3)
        cosines.masked_fill_(slots[at : at + BLOCK, None] == slots, 0.0)
        if spare:
            alike = cosines > near
            later = alike.flip(-1).cumsum(-1).flip(-1)  # near ones from here to the end
            cosines.masked_fill_(alike & (later <= spare), 0.0)
        total += cosines.sum(2)
    return total / (valid.sum(-1) - 1).clamp(min=1)[:, None, None]


def _softmax(scores: Tensor, valid: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(~valid[:, None], -torch.inf), -1)
