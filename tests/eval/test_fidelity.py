"""KL and agreement, against worked cases and torch's own KL."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl

from eval.analysis.fidelity import agreement, kl_divergence, mean_kl


def test_a_worked_case():
    """KL((½, ½) ‖ (¼, ¾)) = ½ ln 2 + ½ ln ⅔ = ½ ln 4/3."""
    half = torch.tensor([0.5, 0.5]).log()
    other = torch.tensor([0.25, 0.75]).log()
    assert kl_divergence(half, other) == pytest.approx(0.5 * math.log(4 / 3))
    backwards = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_divergence(other, half) == pytest.approx(backwards)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_torchs(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 500, generator=generator) * 4
    wanted = torch_kl(Categorical(logits=a.double()), Categorical(logits=b.double()))
    assert kl_divergence(a, b) == pytest.approx(float(wanted), rel=1e-9)


def test_a_shift_of_logits_is_no_distance():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(logits, logits) == 0
    assert kl_divergence(logits, logits + 3) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_along_an_answer_it_is_the_mean_over_its_tokens(tokens):
    a, b = torch.randn(2, tokens, 50, generator=torch.Generator().manual_seed(tokens))
    p, q = Categorical(logits=a.double()), Categorical(logits=b.double())
    assert mean_kl(a, b) == pytest.approx(float(torch_kl(p, q).mean()), rel=1e-9)
    assert mean_kl(b, a) == pytest.approx(float(torch_kl(q, p).mean()), rel=1e-9)


def test_answers_of_another_length_are_refused():
    logits = torch.zeros(3, 50)
    with pytest.raises(ValueError, match="shorter"):
        mean_kl(logits, logits[:2])
    for rows in (1, 2):
        with pytest.raises(ValueError, match="do not predict 3 tokens"):
            agreement(logits[:rows], [0, 0, 0])


def test_far_apart_is_large_and_finite():
    far = kl_divergence(torch.tensor([80.0, -80.0]), torch.tensor([-80.0, 80.0]))
    assert far == pytest.approx(160)


def test_rounding_never_makes_it_negative():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = torch.randn(1000, generator=generator)
        assert kl_divergence(logits, logits + 1e-9 * torch.randn(1000, generator=generator)) >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("answer", "share"), [([2, 0, 1], 1.0), ([2, 0, 0], 2 / 3), ([0, 1, 0], 0.0), ([2], 1.0)]
)
def test_agreement_counts_the_most_likely_tokens(answer, share, dtype):
    logits = torch.tensor([[0.0, 1, 5], [9, 1, 5], [0, 1, -5]], dtype=dtype)[: len(answer)]
    assert agreement(logits, answer) == pytest.approx(share)


def test_agreement_with_large_token_ids():
    """Ids beyond bfloat16's and float16's exact integers are compared as integers."""
    logits = torch.zeros(1, 100_003, dtype=torch.bfloat16)
    logits[0, 100_001] = 1
    assert agreement(logits, [100_001]) == 1
    assert agreement(logits, [100_002]) == 0
