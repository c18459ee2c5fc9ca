"""Correctors that map each cached row to its change, against least squares solved by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models import correctors
from models.correctors import KEYS, VALUES, Change
from models.errors import UserError
from models.prompt import Prompt
from tests.conftest import Family, random_prompt
from tests.models.selector_references import shaped
from tests.models.test_correctors import Corrected, fuse, held, reference

SPECS = ["ridge", "ridge:what=both:ridge=.3", "lowrank", "lowrank:what=values:rank=1:shrink=0"]


def fitted(x: np.ndarray, gap: np.ndarray, ridge: float, rank: int | None) -> np.ndarray:
    """``[D, D]`` of least loss, by least squares over rows that stand for the penalty too."""
    penalty = ridge * np.mean([row @ row for row in x])
    rows = np.concatenate([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    goal = np.concatenate([gap, np.zeros((x.shape[1], gap.shape[1]))])
    linear = np.linalg.lstsq(rows, goal, rcond=None)[0]
    if rank is None:
        return linear
    _, _, directions = np.linalg.svd(rows @ linear, full_matrices=False)
    return linear @ directions[:rank].T @ directions[:rank]


class Mapped(Corrected):
    """Row by row, each head's map solved in float64 before a layer's rows are run."""

    ridge = 1.0
    rank: int | None = None

    def shift(self, layer: int, rows: list[int], chunks, kinds: str, shrink: float) -> None:
        fresh, at = self.fresh(layer, rows), self.kv[layer]
        for start, end in chunks:
            inside = [p for p in rows if start <= p < end]
            if not inside:
                continue
            for name in kinds:
                turn = {p: np.eye(16) for p in range(start, end)}
                if name == "k":
                    turn = {p: self.rotation(p).numpy() for p in turn}
                # Heads by rows by dimensions, without their rotation.
                back = {p: np.linalg.inv(t).T for p, t in turn.items()}
                old = {p: at[name][:, p].double().numpy() @ back[p] for p in turn}
                new = {p: fresh[name][:, p].double().numpy() @ back[p] for p in inside}
                for head in range(2):
                    x = np.stack([old[p][head] for p in inside])
                    gap = np.stack([new[p][head] - old[p][head] for p in inside])
                    middle, centre = np.median(gap, 0), x.mean(0)
                    linear = np.zeros((16, 16))
                    if len(inside) > 1:
                        linear = fitted(x - centre, gap - middle, self.ridge, self.rank)
                    for p in turn:
                        if p not in inside:
                            added = middle * len(inside) / (len(inside) + shrink)
                            added = added + (old[p][head] - centre) @ linear
                            at[name][head, p] += torch.from_numpy(added @ turn[p].T)


class Few(Mapped):
    rank = 4


class Loose(Mapped):
    ridge = 0.3


@pytest.mark.parametrize("method", ["random", "prophet", "debug:check=cached", "blend"])
@pytest.mark.parametrize(
    ("spec", "made", "kinds"),
    [("ridge", Mapped, "k"), ("ridge:what=both:ridge=.3", Loose, "kv"), ("lowrank", Few, "k")],
)
def test_the_cache_is_that_of_plain_loops_over_the_librarys_layers(
    family, method, spec, made, kinds
):
    prompt = shaped("usual")
    prefill = fuse(family, prompt, method, 0.3, spec)
    found = held(family, prompt)
    wanted = reference(family, prompt, prefill, kinds, made=made)
    assert torch.allclose(found.double(), wanted.double(), atol=2e-4)
    fuse(family, prompt, method, 0.3, "shift")
    assert not torch.allclose(found, held(family, prompt), atol=1e-2)


def logits_of(family: Family, prompt: Prompt, spec: str | None, rate: float = 0.3) -> Tensor:
    return fuse(family, prompt, "random", rate, spec).logits


@pytest.mark.parametrize("method", ["random", "blend", "prophet"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_all_or_nothing_is_recomputed_nothing_is_corrected(
    family, prompt, method, spec, rate
):
    logits = fuse(family, prompt, method, rate, None).logits
    plain = held(family, prompt)
    assert torch.equal(fuse(family, prompt, method, rate, spec).logits, logits)
    assert torch.equal(held(family, prompt), plain)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("method", ["random", "debug", "prophet", "epic"])
def test_one_chunk_is_full_prefill_at_any_rate(family, spec, method):
    """Cached rows are exact there: what the map is fitted on is rounding."""
    prompt = random_prompt(0, [90], 12)
    for rate in (0.02, 0.5):
        found = fuse(family, prompt, method, rate, spec)
        assert torch.allclose(found.logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_a_map_of_all_directions_is_ridge_and_one_of_great_penalty_is_shift(family, prompt):
    ridge = logits_of(family, prompt, "ridge")
    assert torch.allclose(logits_of(family, prompt, "lowrank:rank=16"), ridge, atol=1e-3)
    assert torch.allclose(logits_of(family, prompt, "lowrank:rank=99"), ridge, atol=1e-3)
    shift = logits_of(family, prompt, "shift")
    assert torch.allclose(logits_of(family, prompt, "ridge:ridge=1e7"), shift, atol=1e-3)
    assert not torch.allclose(ridge, shift, atol=1e-2)


def change_of(cached: Tensor, gap: Tensor, at: Tensor) -> Change:
    return Change(1, len(at), lambda kind: gap, at, lambda kind: cached)


def test_a_single_row_is_shifted_alone():
    cached, at = torch.randn(2, 9, 16), torch.tensor([4])
    gap = torch.randn(2, 1, 16)
    for spec in SPECS[:3]:
        built = correctors.build(spec)
        found = built.correct(change_of(cached, gap, at))[KEYS]
        assert torch.allclose(found, (gap / 9).expand(2, 9, 16), atol=1e-6)


@pytest.mark.parametrize("spec", ["ridge:ridge=1e-4:what=both", "lowrank:ridge=1e-4:what=both"])
def test_a_change_that_is_a_map_of_the_row_is_found(spec):
    """Of three directions in sixteen, from forty rows."""
    generator = torch.Generator().manual_seed(1)
    cached = torch.randn(2, 90, 16, generator=generator)
    linear = torch.randn(2, 16, 3, generator=generator) @ torch.randn(2, 3, 16, generator=generator)
    at = torch.randperm(90, generator=generator)[:40].sort().values
    change = (cached - cached[:, at].mean(1, keepdim=True)) @ linear
    found = correctors.build(spec).correct(change_of(cached, change[:, at], at))
    assert found.keys() == {KEYS, VALUES}
    # The median of the change is shrunk, as shift's; what the row explains beyond it is not.
    shrunk = change[:, at].quantile(0.5, 1, keepdim=True) * (8 / 48)
    assert float((found[KEYS] + shrunk - change).norm() / change.norm()) < 0.2


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("ridge:ridge=0", "CORRECT=ridge:ridge=0: RIDGE=0.0 must be a number above 0"),
        ("ridge:ridge=nan", "RIDGE=nan must be a number above 0"),
        ("lowrank:rank=0", "CORRECT=lowrank:rank=0: RANK=0 must be at least 1"),
        ("lowrank:what=row", "WHAT is keys, values, both, not 'row'"),
    ],
)
def test_a_mistake_is_told_in_one_line(spec, told):
    with pytest.raises(UserError) as caught:
        correctors.build(spec)
    assert told in str(caught.value)
