"""The question's attention over a prompt, spelled out: what selectors and deviations look at."""

from __future__ import annotations

import torch
from torch import Tensor


def head_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Attention weights of the last rows over all rows, head by head, in float32.

    Parameters
    ----------
    queries : ``[H, q, D]``, post-RoPE, of the last ``q`` of ``R`` rows. keys : ``[H_kv, R, D]``.

    Returns
    -------
    ``[H, q, R]``, rows sum to 1; row ``i`` sees the first ``R - q + i + 1`` keys.
    """
    n_kv = keys.shape[0]
    n_heads, q, _ = queries.shape
    grouped = queries.float().mul(scale).unflatten(0, (n_kv, -1)).flatten(1, 2)
    logits = torch.bmm(grouped, keys.float().transpose(1, 2)).view(n_heads, q, -1)
    return _causal_softmax(logits)


def concatenated_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """The same with all heads side by side as one head of width H·D; ``[q, R]``.

    A key head serves its whole group, so the group's queries are summed instead of repeating it.
    """
    n_heads, _, dim = queries.shape
    grouped = queries.float().unflatten(0, (keys.shape[0], -1)).sum(1)
    logits = torch.bmm(grouped, keys.float().transpose(1, 2)).sum(0) / (n_heads * dim) ** 0.5
    return _causal_softmax(logits)


def _causal_softmax(logits: Tensor) -> Tensor:
    """Softmax over ``[..., q, R]``; the last ``q`` columns are the rows themselves.

    In place on a CPU, where touching fresh memory costs more than the softmax.
    """
    q, rows = logits.shape[-2:]
    future = torch.ones(q, q, dtype=torch.bool, device=logits.device).triu(1)
    logits[..., rows - q :].masked_fill_(future, -torch.inf)
    in_place = logits if logits.device.type == "cpu" else None
    return torch.softmax(logits, -1, out=in_place)
