"""What a real full prefill holds: the yardstick of deviations, and what the oracles look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.flight import Flight
from models.question import head_attention
from models.spans import Prompt


@dataclass(frozen=True)
class Truth:
    """States of one item's full prefill.

    Attributes
    ----------
    prompt : the item's ids and spans.
    kv : ``[2, L, H_kv, N, D]``, keys post-RoPE.
    queries : ``[L, H, q, D]`` of the question's rows, post-RoPE.
    """

    prompt: Prompt
    kv: Tensor
    queries: Tensor
    scale: float

    def attention(self, layer: int) -> Tensor:
        """Attention of the question's rows, ``[H, q, N]``, float32."""
        return head_attention(self.queries[layer], self.kv[0, layer], self.scale)


def observe(question: Flight, prompt: Prompt) -> Truth:
    """Keep the states of the full prefill that the cache holds.

    Parameters
    ----------
    question : the question's rows, not yet run; over true KVs their states are the true ones.
    """
    kv = question.cache.kv[:, :, :, : len(prompt)].clone()
    return Truth(prompt, kv, torch.stack(list(_climb(question))), question.modules.scale)


def deviations(question: Flight, truth: Truth) -> tuple[list[float], list[float]]:
    """Distance of the cache from the full prefill, layer by layer, relative to the latter.

    Returns
    -------
    delta_kv : Frobenius norm of the difference over the documents' rows, over the norm of the true
        ones; mean of keys and values.
    delta_attn : the same of the question's attention weights, all heads, over the whole prompt
        (CacheBlend's attention deviation, Yao et al., 2024, arXiv:2405.16444). Queries are computed
        in context, keys are the cache's, also where a method left the question's keys as captured.
    """
    documents, n = slice(*truth.prompt.documents), len(truth.prompt)
    cached = question.cache.kv
    both = list(zip(cached, truth.kv, strict=True))
    delta_kv, delta_attn = [], []
    for layer, queries in enumerate(_climb(question)):
        kinds = [(part[layer][:, documents], true[layer][:, documents]) for part, true in both]
        delta_kv.append(sum(_relative(*pair) for pair in kinds) / 2)
        fused = head_attention(queries, cached[0, layer][:, :n], truth.scale)
        delta_attn.append(_relative(fused, truth.attention(layer)))
    return delta_kv, delta_attn


def _climb(question: Flight) -> Iterator[Tensor]:
    """Queries of every layer in turn, ``[H, q, D]``; the layers below it have run by then.

    To look must change nothing: what the question's rows overwrite is put back in the end.
    """
    rows = question.cache.kv[:, :, :, question.slots]
    held = rows.clone()
    for layer in range(len(question.modules.layers)):
        question.run_to(layer)
        yield question.fresh("q")
    rows.copy_(held)


def _relative(found: Tensor, true: Tensor) -> float:
    """‖found − true‖ / ‖true‖, 0 where there is nothing."""
    true = true.float()
    norm = float(true.norm())
    return float((found.float() - true).norm()) / norm if norm else 0.0
