"""Distance of a method's distribution from the full prefill's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kl_divergence(reference: Tensor, other: Tensor) -> float:
    """KL(reference ‖ other) of two next-token distributions, in nats.

    Parameters
    ----------
    reference, other : logits ``[vocabulary]``; computed in float64.
    """
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return max(0.0, float((p.exp() * (p - q)).sum()))


def mean_kl(reference: Tensor, other: Tensor) -> float:
    """Mean of :func:`kl_divergence` along an answer, teacher-forced.

    Parameters
    ----------
    reference, other : logits ``[answer tokens, vocabulary]``.
    """
    pairs = zip(reference, other, strict=True)
    return sum(kl_divergence(*pair) for pair in pairs) / len(reference)


def agreement(logits: Tensor, answer: Sequence[int]) -> float:
    """Share of ``answer``'s tokens that are the most likely ones, teacher-forced.

    Parameters
    ----------
    logits : ``[len(answer), vocabulary]``, row ``i`` predicts ``answer[i]``.
    answer : the full prefill's own greedy tokens, its stop token included.
    """
    hits = (logits.argmax(-1).cpu() == torch.tensor(answer)).sum()
    return float(hits) / len(answer)
