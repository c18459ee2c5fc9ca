"""How likely a model finds what follows a compressed context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from eval.ppl.compress import compressed, shuffled
from eval.ppl.config import PplConfig
from eval.ppl.passages import Passage
from models.eviction.base import BasePolicy
from models.eviction.generate import EvictingCache
from models.finite import require_finite


@dataclass(frozen=True)
class Score:
    """One passage under one policy.

    Attributes
    ----------
    nll : nats, summed over the scored tokens. tokens : how many these are.
    exact : greedy decoding would have answered with exactly these tokens.
    kept : share of the context's rows that stayed, over all layers.
    kv_bytes : of the rows that stayed.
    """

    nll: float
    tokens: int
    exact: bool
    kept: float
    kv_bytes: int


@torch.inference_mode()
def score(
    model: Any,
    context: EvictingCache,
    passage: Passage,
    policy: BasePolicy,
    config: PplConfig,
) -> Score:
    """Score a passage's following tokens behind what ``policy`` leaves of its context.

    Raises
    ------
    NotFinite : the model found NaN.
    """
    with compressed(model, context, policy) as cache:
        if config.order == "score":
            shuffled(cache, config.seed)
        held = [layer.kept for layer in cache.layers]
        kv_bytes = cache.kv_bytes()
        start = cache.first.seen if config.positions == "seen" else cache.first.kept
        ids = torch.tensor([passage.following], device=model.device)
        places = torch.arange(start, start + ids.shape[1] - 1, device=model.device)[None]
        logits = model(
            ids[:, :-1],
            position_ids=places,
            past_key_values=cache,
            logits_to_keep=ids.shape[1] - passage.first,
        ).logits[0]
    expected = ids[0, passage.first :]
    nll = float(cross_entropy(logits.float(), expected, reduction="sum"))
    require_finite(nll, "the likelihoods")
    return Score(
        nll=nll,
        tokens=len(expected),
        exact=bool((logits.argmax(-1) == expected).all()),
        kept=sum(held) / len(held) / len(passage.context),
        kv_bytes=kv_bytes,
    )
