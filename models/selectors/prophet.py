"""The question runs ahead through all layers over the cached KVs, and where it looks is chosen."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from models.errors import UserError
from models.probe import Probe
from models.question import group_attention, received_attention
from models.selectors.base import BaseSelector, option, top_k


@dataclass
class Selector(BaseSelector):
    """Top-k of the mean attention over layers, heads and question rows.

    At each layer the attention that the documents receive, mean over heads and rows, is normalised
    to sum 1, so that layers which look elsewhere count alike. ``pool`` averages over so many
    neighbours (odd; 1 is off). After ProphetKV (Wang et al., 2026, arXiv:2602.02579).

    Cost: the question's rows through all layers, and their attention weights.
    """

    pool: int = option(1, "prophet: neighbours to average over, odd (1: off)")

    def __post_init__(self) -> None:
        if self.pool < 1 or self.pool % 2 == 0:
            raise UserError(f"POOL={self.pool} must be odd: 1 (off), 3, 5, ...")

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        if not len(probe.candidates):
            return probe.candidates
        total = look(probe, range(probe.n_layers))
        if self.pool > 1:
            half = self.pool // 2
            total = avg_pool1d(total[None], self.pool, 1, half, count_include_pad=False)[0]
        return probe.candidates[top_k(total, probe.budget)]


def look(probe: Probe, layers: Iterable[int]) -> Tensor:
    """The documents' shares of the question's attention in these layers, added up, ``[|S|]``.

    The question runs ahead over the cached KVs, as far as the last of them.
    """
    total = torch.zeros(len(probe.candidates), device=probe.device)
    for layer in layers:
        asked = probe.question(layer)
        total += document_share(probe, group_attention(asked.queries, asked.keys, probe.scale))
    return total


def document_share(probe: Probe, weights: Iterable[Tensor]) -> Tensor:
    """Each position's share of the attention that the documents get, ``[|S|]``.

    ``weights`` are ``[H / H_kv, q, N]`` of every K/V head.
    """
    received = received_attention(weights)[slice(*probe.prompt.documents)]
    return received / received.sum().clamp_min(torch.finfo(torch.float32).tiny)
