"""Distance of a method's distribution from the full prefill's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eval.analysis.finite import REMEDY, NotFinite, require_finite

# Below zero a divergence is rounding, as far as float64 rounds; what is further below is no KL.
BELOW = -1e-6


def kl_divergence(reference: Tensor, other: Tensor) -> float:
    """KL(reference ‖ other) of two next-token distributions, in nats.

    Parameters
    ----------
    reference, other : logits ``[vocabulary]``; computed in float64.

    Raises
    ------
    NotFinite : logits, or what comes of them, that are NaN or infinite.
    """
    require_finite(reference, "logits of the full prefill")
    require_finite(other, "logits of the method")
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return divergence(float((p.exp() * (p - q)).sum()))


def divergence(value: float) -> float:
    """A computed KL as one: rounding below 0 becomes 0.

    Raises
    ------
    NotFinite : NaN, infinite, or further below 0 than rounding goes.
    """
    if not math.isfinite(value) or value < BELOW:
        raise NotFinite(f"a KL divergence of {value} is none; {REMEDY}")
    return max(0.0, value)


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

    Raises
    ------
    NotFinite : logits that are NaN or infinite.
    ValueError : not a row for each token.
    """
    require_finite(logits, "logits along the answer")
    if len(logits) != len(answer):
        raise ValueError(f"{len(logits)} rows of logits do not predict {len(answer)} tokens")
    hits = (logits.argmax(-1).cpu() == torch.tensor(answer)).sum()
    return float(hits) / len(answer)
