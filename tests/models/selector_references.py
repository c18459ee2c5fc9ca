"""What selectors are held against: scores in plain loops over the library's own states."""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from models import selectors
from models.engine import Prefill
from models.gate import reader
from models.kv.capture import Captured, capture
from models.probe import NO_HEADERS, Probe
from models.prompt import Headers, Prompt
from models.selectors import BaseSelector
from models.truth import Truth
from tests.conftest import Family, random_prompt
from tests.models.library_states import SINK

SHAPES = {
    "usual": (5, [30, 1, 24], 9),
    "one chunk": (3, [40], 6),
    "one-token chunks": (2, [1, 1, 1], 2),
    "no prefix": (0, [20, 20], 5),
    "one question token": (4, [25, 25], 1),
}
RATES = (0.15, 0.5, 0.85)
EVERY_SELECTOR = [name for name in selectors.names() if name != selectors.FULL_PREFILL]
RATED = [name for name in EVERY_SELECTOR if selectors.make(name).knows_rate]


def shaped(shape: str, seed: int = 0) -> Prompt:
    return random_prompt(*SHAPES[shape], seed=seed)


# Running a selector


@lru_cache(maxsize=64)
def captured(family: Family, prompt: Prompt) -> Captured:
    return capture(family.engine.modules, prompt, SINK, ["surprisal", "sinks"])


@lru_cache(maxsize=64)
def truth(family: Family, prompt: Prompt) -> Truth:
    family.engine.full_prefill(prompt)
    return family.engine.observe(prompt)


def fuse(
    family: Family, prompt: Prompt, selector: BaseSelector | str, rate: float, seed: int = 0
) -> Prefill:
    """A fused prefill; the selector may be given as a spec."""
    if isinstance(selector, str):
        selector = selectors.build(selector)
    stored = captured(family, prompt)
    seen = truth(family, prompt) if selector.oracle else None
    family.engine.cache.reserve(len(prompt) + 16)
    return family.engine.fused_prefill(
        prompt,
        reader(stored.kv),
        selector,
        rate,
        torch.Generator().manual_seed(seed),
        stored.scores.__getitem__,
        seen,
        "7",
        stored.headers,
    )


def chosen(
    family: Family, prompt: Prompt, selector: BaseSelector | str, rate: float, seed: int = 0
) -> list[int]:
    """Recomputed document positions; all must be in order and the question among them."""
    positions = fuse(family, prompt, selector, rate, seed).recomputed.tolist()
    question = list(range(*prompt.question))
    assert positions == sorted(set(positions))
    assert positions[len(positions) - len(question) :] == question
    documents = positions[: len(positions) - len(question)]
    assert all(prompt.documents[0] <= p < prompt.documents[1] for p in documents)
    return documents


def bare_probe(
    prompt: Prompt,
    rate: float,
    scores: Tensor | None = None,
    seed: int = 0,
    headers: Headers = NO_HEADERS,
) -> Probe:
    """A probe without a model behind it, whose offline scores are all these."""
    return Probe(
        prompt,
        rate,
        launch=None,
        modules=SimpleNamespace(device=torch.device("cpu"), layers=[None], scale=1.0, tile=1),
        cache=None,
        generator=torch.Generator().manual_seed(seed),
        scores=None if scores is None else lambda name: scores,
        item_id="7",
        headers=headers,
    )


def best(scores: list[float], first: int, k: int) -> list[int]:
    """Positions of the k largest, ties to the lower position."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(first + i for i in order[:k])


def assert_best(found: list[int], scores: list[float], first: int, k: int) -> None:
    """The k best by these scores, up to swaps between scores that rounding cannot tell apart."""
    assert len(found) == k
    wanted = best(scores, first, k)
    threshold = min((scores[p - first] for p in wanted), default=0.0)
    for swapped in set(wanted) ^ set(found):
        assert scores[swapped - first] == pytest.approx(threshold, rel=1e-4, abs=1e-9)


def assert_takes_the_best(
    family: Family, prompt: Prompt, selector: BaseSelector | str, scores: list[float]
) -> None:
    """At several rates the selector's choice is the best by these scores."""
    first, last = prompt.documents
    assert len(scores) == last - first
    for rate in RATES:
        found = chosen(family, prompt, selector, rate)
        assert_best(found, scores, first, int(len(scores) * rate))


# Scores, spelled out


def deviation(new: Tensor, old: Tensor, positions: list[int]) -> list[float]:
    """Squared distance by position, over heads and dimensions."""
    gaps = [(new[:, p] - old[:, p]).flatten().tolist() for p in positions]
    return [math.fsum(x * x for x in gap) for gap in gaps]


def softmax(logits: list[float]) -> list[float]:
    peak = max(logits)
    weights = [math.exp(x - peak) for x in logits]
    return [weight / math.fsum(weights) for weight in weights]


def attention(queries: Tensor, keys: Tensor, first: int, scale: float) -> Tensor:
    """``[H, q, keys]``: row ``i`` sees the keys up to index ``first + i``, and no others."""
    group = queries.shape[0] // keys.shape[0]
    weights = torch.zeros(queries.shape[0], queries.shape[1], keys.shape[1], dtype=torch.float64)
    for head in range(queries.shape[0]):
        for row in range(queries.shape[1]):
            seen = keys[head // group, : first + row + 1]
            weights[head, row, : len(seen)] = torch.tensor(
                softmax([scale * x for x in (seen @ queries[head, row]).tolist()])
            )
    return weights


def wide(states: Tensor, n_heads: int) -> Tensor:
    """``[heads, n, D]`` → ``[1, n, H·D]``: heads side by side, each repeated over its group."""
    group = n_heads // states.shape[0]
    return torch.cat([states[h // group] for h in range(n_heads)], 1)[None]


def pooled(scores: list[float], width: int, edge_corrected: bool) -> list[float]:
    half = width // 2
    result = []
    for i in range(len(scores)):
        near = scores[max(0, i - half) : i + half + 1]
        result.append(math.fsum(near) / (len(near) if edge_corrected else width))
    return result


def document_attention(by_layer: list[Tensor], prompt: Prompt) -> list[float]:
    """Mean over layers of what the documents get, each layer's made to sum to 1."""
    first, last = prompt.documents
    total = [0.0] * (last - first)
    for weights in by_layer:
        got = [math.fsum(weights[:, :, p].flatten().tolist()) for p in range(first, last)]
        total = [t + g / math.fsum(got) / len(by_layer) for t, g in zip(total, got, strict=True)]
    return total
