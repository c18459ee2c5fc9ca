"""Attention of the last queries over a layer's rows, and pooling over neighbours, pads aside."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from models.errors import UserError

BLOCK = 256  # queries at a time where there are many: of a whole prompt, weights would fill memory


def logits(queries: Tensor, keys: Tensor, valid: Tensor, scale: float, start: int) -> Tensor:
    """Scaled products of queries with the keys that they may see, ``-inf`` elsewhere.

    Parameters
    ----------
    queries : ``[B, H, q, D]``, rotated, of the slots ``start .. start + q``.
    keys : ``[B, H_kv, N, D]``, rotated. valid : bool ``[B, N]``.

    Returns
    -------
    float32 ``[B, H_kv, H / H_kv, q, N]``. A pad's query sees nothing but pads, so its row is
    ``-inf`` throughout.
    """
    grouped = queries.float().unflatten(1, (keys.shape[1], -1)) * scale
    products = torch.einsum("bhgqd,bhnd->bhgqn", grouped, keys.float())
    slots = torch.arange(keys.shape[2], device=keys.device)
    asking = torch.arange(start, start + queries.shape[2], device=keys.device)
    hidden = ~valid[:, None] | (slots > asking[:, None])
    return products.masked_fill_(hidden[:, None, None], -torch.inf)


def weights(products: Tensor, valid: Tensor, start: int) -> Tensor:
    """Softmax over the last dimension; 0 in the rows of pads' queries, where there is none.

    Parameters
    ----------
    products : ``[B, ..., q, N]`` as :func:`logits` returns them, of the slots from ``start`` on.
    """
    q = products.shape[-2]
    asking = valid[:, start : start + q].view(len(valid), *[1] * (products.dim() - 3), q, 1)
    return torch.softmax(products, -1).masked_fill(~asking, 0.0)


def received(queries: Tensor, keys: Tensor, valid: Tensor, scale: float) -> Tensor:
    """Attention that rows receive from the last ``q`` queries, summed over these and their group.

    Returns
    -------
    float32 ``[B, H_kv, N]``.
    """
    return torch.stack([part.sum((2, 3)) for part in _parts(queries, keys, valid, scale)]).sum(0)


def _parts(queries: Tensor, keys: Tensor, valid: Tensor, scale: float) -> Iterator[Tensor]:
    first = keys.shape[2] - queries.shape[2]
    for at in range(0, queries.shape[2], BLOCK):
        part = logits(queries[:, :, at : at + BLOCK], keys, valid, scale, first + at)
        yield weights(part, valid, first + at)


def pooled(scores: Tensor, among: Tensor, kernel: int, how: str) -> Tensor:
    """Each score with its neighbours': their mean or maximum, edges and rows outside not counted.

    Parameters
    ----------
    scores : ``[B, H_kv, N]``. among : bool ``[B, N]``, which rows are pooled, and pooled over.
    kernel : neighbours, the row itself among them; odd.
    how : ``avg`` or ``max``.

    Returns
    -------
    ``[B, H_kv, N]``, meaningful where ``among``.
    """
    half = kernel // 2
    if how == "max":
        return max_pool1d(scores.masked_fill(~among[:, None], -torch.inf), kernel, 1, half)
    counted = among[:, None].to(scores.dtype)
    total = avg_pool1d(scores.masked_fill(~among[:, None], 0.0), kernel, 1, half)
    return total / avg_pool1d(counted, kernel, 1, half).clamp(min=1 / (2 * kernel))


def require_pooling(kernel: int, how: str) -> None:
    """Refuse a kernel without a middle, and a pooling that there is not."""
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(f"KERNEL={kernel} must be odd and at least 1")
    if how not in ("avg", "max"):
        raise UserError(f"POOLING is avg or max, not {how!r}")
