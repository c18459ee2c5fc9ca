"""A³: attention of the question, at one dense layer, decides what to recompute."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from models.probe import Probe
from models.selectors import BaseSelector, top_k

POOL = 5


@dataclass
class Selector(BaseSelector):
    """Top-k of the question's attention over the documents at the check layer, as published.

    Heads are concatenated, not averaged: ``softmax(Q_question·Kᵀ / √(H·D))`` with Q and K of width
    H·D (K repeated over its group), over documents and question, causal within the question, the
    prefix left out. Summed over the question's rows, then average-pooled over 5 neighbours; the
    pool counts its zero padding and so under-scores the two positions at either end, as published.

    Cost: the layers below the check layer on all rows, and one projection of them.
    """

    check_layer: int = 1

    @property
    def dense_layers(self) -> int:
        return self.check_layer

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        n, q = len(probe.candidates), probe.prompt.question[1] - probe.prompt.question[0]
        if not n:  # no documents: nothing to pool over
            return probe.candidates
        check = probe.check(self.check_layer)
        scores = concatenated_attention(check.queries(q), check.keys)[:, :n].sum(0)
        pooled = avg_pool1d(scores[None], POOL, stride=1, padding=POOL // 2)[0]
        return probe.candidates[top_k(pooled, probe.budget)]


def concatenated_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention of the last rows over all rows, heads concatenated, in float32.

    A key head serves its whole group, so the group's queries are summed instead of repeating it.

    Parameters
    ----------
    queries : ``[H, q, D]`` of the last ``q`` rows. keys : ``[H_kv, R, D]``.

    Returns
    -------
    ``[q, R]``, rows sum to 1; row ``i`` sees the first ``R - q + i + 1`` keys.
    """
    n_heads, q, dim = queries.shape
    grouped = queries.float().unflatten(0, (keys.shape[0], -1)).sum(1)
    logits = torch.bmm(grouped, keys.float().transpose(1, 2)).sum(0) / (n_heads * dim) ** 0.5
    rows = keys.shape[1]
    future = torch.ones(q, rows, dtype=torch.bool, device=keys.device).triu(rows - q + 1)
    return logits.masked_fill_(future, -torch.inf).softmax(-1)
