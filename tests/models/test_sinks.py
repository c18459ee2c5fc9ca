"""Attention sinks found offline, against the library's own attention weights."""

from __future__ import annotations

import pytest
import torch

from models.attention.masked import CausalRows
from models.kv import sinks as sinks_module
from models.kv.capture import capture
from models.kv.sinks import SinkRows
from models.modules import Modules
from models.prompt import Prompt
from tests.conftest import build, random_prompt
from tests.models.library_states import SINK, sinks


@pytest.mark.parametrize(
    "prompt",
    [
        random_prompt(9, [40, 1, 40, 33], 17),
        random_prompt(0, [30, 30], 7),
        random_prompt(3, [], 5),
        random_prompt(1, [1, 1], 1),
        Prompt.join([1], [[], [4, 0, 5], []], [6]),
    ],
    ids=["usual", "no prefix", "no chunks", "single tokens", "empty chunks"],
)
def test_what_each_token_draws_is_in_the_librarys_weights(family, prompt):
    found = capture(family.engine.modules, prompt, SINK, ["sinks"]).scores["sinks"]
    assert found.shape == (len(prompt),)
    assert found.dtype == torch.float32
    for span in prompt.segments:
        if span[0] < span[1]:
            wanted = torch.tensor(sinks(family, prompt, span), dtype=torch.float32)
            assert torch.allclose(found[slice(*span)], wanted, atol=1e-5)


def test_a_segment_hands_out_what_its_header_leaves(llama):
    prompt = random_prompt(9, [40, 40], 17)
    without = capture(llama.engine.modules, prompt, [], ["sinks"]).scores["sinks"]
    behind = capture(llama.engine.modules, prompt, SINK, ["sinks"]).scores["sinks"]
    for i, span in enumerate(prompt.segments):
        assert float(without[slice(*span)].sum()) == pytest.approx(1, abs=1e-4)
        assert (float(behind[slice(*span)].sum()) < 0.999) == (i > 0)


@pytest.mark.parametrize("rows", [1, 7, 40, 41])
def test_a_long_segment_is_looked_at_in_parts(family, monkeypatch, rows):
    prompt = random_prompt(9, [40, 40, 33], 17)
    whole = capture(family.engine.modules, prompt, SINK, ["sinks"]).scores["sinks"]
    monkeypatch.setattr(sinks_module, "ROWS", rows)
    parts = capture(family.engine.modules, prompt, SINK, ["sinks"]).scores["sinks"]
    assert torch.allclose(parts, whole, atol=1e-6)


def test_asking_for_sinks_changes_neither_kvs_nor_surprisal(family, prompt):
    plain = capture(family.engine.modules, prompt, SINK, ["surprisal"])
    both = capture(family.engine.modules, prompt, SINK, ["surprisal", "sinks"])
    assert torch.equal(both.kv, plain.kv)
    assert torch.equal(both.scores["surprisal"], plain.scores["surprisal"])
    assert plain.scores.keys() == {"surprisal"}


def test_weights_add_up_in_single_precision():
    modules = Modules(build("qwen2").bfloat16())
    found = capture(modules, random_prompt(3, [200], 5), SINK, ["sinks"]).scores["sinks"]
    assert found.dtype == torch.float32
    assert len(found.unique()) == len(found)


def test_the_first_token_of_uniform_attention_draws_most():
    """Without any preference row i gives 1/(i+1) to each before it and itself."""
    rows = SinkRows(CausalRows(), 4, 2, torch.device("cpu"))
    zeros = torch.zeros(1, 6, 4, 8)
    for _ in range(2):
        rows.attend(zeros, zeros[:, :2], zeros[:, :2], 1.0)
    assert rows.received.tolist() == pytest.approx([25 / 48, 13 / 48, 7 / 48, 3 / 48])
