"""A³: attention of the question, at one layer, decides (Zhou et al., 2025, arXiv:2511.17560)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool1d

from models.errors import UserError
from models.probe import Probe
from models.question import concatenated_attention, group_attention, received_attention
from models.selectors.base import BaseSelector, check_layer, option, require_layer, top_k

POOL = 5


@dataclass
class Selector(BaseSelector):
    """Top-k of the question's attention over the documents at the check layer, as published.

    Heads are concatenated, not averaged: ``softmax(Q_question·Kᵀ / √(H·D))`` with Q and K of width
    H·D (K repeated over its group), over documents and question, causal within the question, the
    prefix left out. Summed over the question's rows, then average-pooled over 5 neighbours; the
    pool counts its zero padding and so under-scores the two positions at either end, as published.

    Options: ``per_head`` takes a softmax of each head by itself, with the model's own scale, and
    sums them; ``edge_corrected`` averages over the neighbours that exist; ``check=cached`` scores
    against the *cached* keys, so that only the question runs below the check layer.

    Cost: the layers below the check layer on all rows, and one projection of them; with
    ``check=cached`` on the question's rows only.
    """

    check_layer: int = check_layer()
    check: str = option("dense", "debug: dense, or cached: score against cached keys (dense)")
    per_head: bool = option(False, "debug: 1 takes a softmax of each head by itself")
    edge_corrected: bool = option(False, "debug: 1 pools over the neighbours that exist only")

    context = "prefix"  # its authors' code captures every chunk behind the prompt's header

    def __post_init__(self) -> None:
        require_layer(self.check_layer)
        if self.check not in ("dense", "cached"):
            raise UserError(f"CHECK is dense or cached, not {self.check!r}")

    @property
    def deepest(self) -> int:
        return self.check_layer

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        if not len(probe.candidates):  # no documents: nothing to pool over
            return probe.candidates
        first = probe.prompt.documents[0]
        if self.check == "dense":
            check = probe.check(self.check_layer)
            queries, keys = check.queries, check.keys
        else:
            asked = probe.question(self.check_layer)
            queries, keys = asked.queries, asked.keys[:, first:]
        scores = attention_scores(probe, queries, keys, self.per_head, self.edge_corrected)
        return probe.candidates[top_k(scores, probe.budget)]


def attention_scores(
    probe: Probe, queries: Tensor, keys: Tensor, per_head: bool, edge_corrected: bool
) -> Tensor:
    """Pooled attention over the documents, float32 ``[|S|]``.

    Parameters
    ----------
    queries : ``[H, q, D]`` of the question. keys : ``[H_kv, |S| + q, D]``.
    """
    if per_head:
        received = received_attention(group_attention(queries, keys, probe.scale))
    else:
        received = concatenated_attention(queries, keys).sum(0)
    summed = received[: len(probe.candidates)]
    return avg_pool1d(
        summed[None], POOL, stride=1, padding=POOL // 2, count_include_pad=not edge_corrected
    )[0]
