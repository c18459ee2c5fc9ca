"""The newer published rules, in plain loops over what the library's own model says."""

from __future__ import annotations

import math

import pytest

from models import selectors
from models.errors import UserError
from models.prompt import Prompt
from tests.conftest import Family
from tests.models.library_states import cached
from tests.models.selector_references import (
    SHAPES,
    assert_takes_the_best,
    attention,
    chosen,
    shaped,
)
from tests.models.test_question_pass import asked

SCALE = 1 / math.sqrt(16)


# InfoFlow


def norms(family: Family, prompt: Prompt, layers: list[int], values: bool) -> list[float]:
    """By document position: the length of what heads and rows give it, summed over layers."""
    first, last = prompt.documents
    states, stored = asked(family, prompt), cached(family, prompt)
    total = [0.0] * (last - first)
    for layer in layers:
        queries, keys = states[layer]
        weights = attention(queries, keys, prompt.question[0], SCALE)
        group = queries.shape[0] // keys.shape[0]
        for i in range(last - first):
            squares = []
            for head in range(queries.shape[0]):
                v = stored[layer]["v"][head // group, first + i].tolist()
                length = math.hypot(*v) if values else 1.0
                squares += [(a * length) ** 2 for a in weights[head, :, first + i].tolist()]
            total[i] += math.sqrt(math.fsum(squares))
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["weights", "values"])
def test_infoflow_takes_the_largest_norms_of_the_questions_attention(family, shape, norm):
    prompt = shaped(shape, seed=21)
    for layer, layers in ((None, range(4)), (0, [0]), (2, [2])):
        scores = norms(family, prompt, list(layers), norm == "values")
        selector = selectors.make("infoflow", norm=norm, layer=layer)
        assert_takes_the_best(family, prompt, selector, scores)


def test_infoflow_is_not_the_mean_and_its_options_matter(llama):
    prompt = shaped("usual", seed=21)
    specs = ["prophet", "infoflow", "infoflow:norm=values", "infoflow:layer=3"]
    found = {spec: tuple(chosen(llama, prompt, spec, 0.3)) for spec in specs}
    assert len(set(found.values())) == len(specs)


def test_infoflow_looks_no_further_than_its_layer(llama):
    assert selectors.make("infoflow", layer=3).deepest == 3
    assert selectors.make("infoflow").deepest == 0
    with pytest.raises(UserError, match="layer 7 does not exist"):
        chosen(llama, shaped("usual"), "infoflow:layer=7", 0.3)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"norm": "keys"}, "NORM is weights or values, not 'keys'"), ({"layer": -1}, "LAYER=-1")],
)
def test_an_option_out_of_range_is_told_in_one_line(options, told):
    with pytest.raises(UserError, match=told):
        selectors.make("infoflow", **options)
