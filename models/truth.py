"""What a real full prefill holds: the yardstick of deviations, and what the oracles look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.finite import require_finite
from models.flight import Flight
from models.prompt import Prompt
from models.question import group_attention

HELD = 256 << 20  # bytes of attention that are held for all methods; more is computed for each


@dataclass(frozen=True)
class Truth:
    """States of one item's full prefill.

    Attributes
    ----------
    prompt : the item's ids and spans.
    kv : ``[2, L, H_kv, N, D]``, keys post-RoPE.
    queries : ``[L, H, q, D]`` of the question's rows, post-RoPE.
    scale : attention logits are multiplied by it.
    """

    prompt: Prompt
    kv: Tensor
    queries: Tensor
    scale: float
    _weights: dict[int, list[Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def attention(self, layer: int) -> list[Tensor]:
        """Attention of the question's rows, see :func:`models.question.group_attention`."""
        found = self._weights.get(layer)
        if found is None:
            found = list(group_attention(self.queries[layer], self.kv[0, layer], self.scale))
            n_layers = len(self.queries)
            if n_layers * sum(weights.nbytes for weights in found) <= HELD:
                self._weights[layer] = found
        return found


def observe(question: Flight, prompt: Prompt) -> Truth:
    """Keep the states of the full prefill that the cache holds.

    Parameters
    ----------
    question : the question's rows, not yet run; over true KVs their states are the true ones.

    Raises
    ------
    NotFinite : the queries hold NaN or infinite values.
    """
    kv = question.cache.kv[:, :, :, : len(prompt)].clone()
    queries = torch.stack(list(_climb(question)))
    require_finite(queries, "the full prefill's queries")
    return Truth(prompt, kv, queries, question.modules.scale)


def deviations(
    question: Flight, truth: Truth, queries: Sequence[Tensor] | None = None
) -> tuple[list[float], list[float]]:
    """Distance of the cache from the full prefill, layer by layer, relative to the latter.

    Parameters
    ----------
    question : the question's rows, not yet run.
    queries : ``[H, q, D]`` of every layer where they are known: the question need not run then.

    Returns
    -------
    delta_kv : Frobenius norm of the difference over the documents' rows, over the norm of the true
        ones; mean of keys and values.
    delta_attn : the same of the question's attention weights, all heads, over the whole prompt
        (CacheBlend's attention deviation, Yao et al., 2024, arXiv:2405.16444). Queries are computed
        in context, keys are the cache's, also where a method left the question's keys as captured.

    Raises
    ------
    NotFinite : a distance is NaN or infinite.
    """
    documents, n = slice(*truth.prompt.documents), len(truth.prompt)
    cached = question.cache.kv
    both = list(zip(cached, truth.kv, strict=True))
    delta_kv, delta_attn = [], []
    for layer, asked in enumerate(queries or _climb(question)):
        kinds = [(part[layer][:, documents], true[layer][:, documents]) for part, true in both]
        delta_kv.append(sum(_relative(*pair) for pair in kinds) / 2)
        gap = total = 0.0
        fused = group_attention(asked, cached[0, layer][:, :n], truth.scale)
        for found, true in zip(fused, truth.attention(layer), strict=True):
            gap += float((found - true).square().sum())
            total += float(true.square().sum())
        delta_attn.append((gap / total) ** 0.5)
        require_finite(delta_kv[-1] + delta_attn[-1], "the distances from the full prefill")
    return delta_kv, delta_attn


def _climb(question: Flight) -> Iterator[Tensor]:
    """Queries of every layer in turn, ``[H, q, D]``; the layers below it have run by then.

    To look must change nothing: what the question's rows overwrite is put back in the end.
    """
    rows = question.cache.kv[:, :, :, question.place.slots]
    held, lengths = rows.clone(), question.cache.lengths
    try:
        for layer in range(len(question.modules.layers)):
            question.run_to(layer)
            yield question.fresh("q")
    finally:
        rows.copy_(held)
        question.cache.lengths = lengths


def _relative(found: Tensor, true: Tensor) -> float:
    """‖found − true‖ / ‖true‖, 0 where there is nothing."""
    true = true.float()
    norm = float(true.norm())
    return float((found.float() - true).norm()) / norm if norm else 0.0
