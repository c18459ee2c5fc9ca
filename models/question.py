"""The question's attention over a prompt, spelled out: what selectors and deviations look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def group_attention(queries: Tensor, keys: Tensor, scale: float) -> Iterator[Tensor]:
    """Attention weights of the last rows over all rows, in float32, one K/V head at a time.

    Parameters
    ----------
    queries : ``[H, q, D]``, post-RoPE, of the last ``q`` of ``R`` rows. keys : ``[H_kv, R, D]``.

    Yields
    ------
    ``[H / H_kv, q, R]`` of the heads that share a K/V head, in order; weights sum to 1, and row
    ``i`` sees the first ``R - q + i + 1`` keys.
    """
    for group, head in zip(queries.unflatten(0, (keys.shape[0], -1)), keys, strict=True):
        yield _causal_softmax(torch.matmul(group.float().mul(scale), head.float().T))


def received_attention(weights: Iterable[Tensor]) -> Tensor:
    """``[H / H_kv, q, R]`` of every K/V head → sum over all heads and rows, ``[R]``."""
    return torch.stack([group.sum((0, 1)) for group in weights]).sum(0)


def concatenated_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """The same with all heads side by side as one head of width H·D, ``[q, R]``.

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
