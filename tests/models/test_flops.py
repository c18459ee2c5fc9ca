"""The FLOP limit, against torch's own counter and arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from models.flops import flop_limit
from models.gate import reader
from models.kv.capture import capture
from models.modules import Modules
from models.selectors import make
from tests.conftest import Family, random_prompt


def fused(family, prompt, method, rate, check_layer=1):
    captured = capture(family.engine.modules, prompt, [1])
    selector = make(method, check_layer=check_layer)
    generator = torch.Generator().manual_seed(0)
    return lambda: family.engine.fused_prefill(
        prompt, reader(captured.kv), selector, rate, generator
    )


def matmul_flops(run) -> int:
    """FLOPs of the matrix products outside attention, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm", "aten.bmm"))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def wide(request):
    """A wide MLP: attention, which torch counts kernel by kernel, weighs next to nothing."""
    return Family(request.param, intermediate_size=4000)


@pytest.mark.parametrize("method", ["full", "random", "debug", "blend", "cat", "prophet"])
def test_the_limit_is_the_ratio_of_what_torch_counts(wide, method):
    prompt = random_prompt(4, [24, 24], 8)
    run = fused(wide, prompt, method, 0.25)
    limit = flop_limit(wide.engine.modules, len(prompt), run().passes)
    counted = matmul_flops(lambda: wide.engine.full_prefill(prompt)) / matmul_flops(run)
    assert limit == pytest.approx(counted, rel=0.03)


def test_everything_is_once():
    modules = Modules(tiny())
    everything = torch.arange(25)
    assert flop_limit(modules, 25, [(everything, 3)]) == 1
    assert flop_limit(modules, 25, [(everything, 2), (everything, 1)]) == pytest.approx(1)


def tiny(**changes) -> LlamaForCausalLM:
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes)))


def test_by_hand():
    """Per row and layer: q, o 8·8, k, v 8·4, three MLP matrices 8·12, two FLOPs per weight."""
    modules = Modules(tiny())
    chosen, in_flight = torch.tensor([2, 4, 5]), torch.arange(1, 6)
    linear = 2 * (2 * 64 + 2 * 32 + 3 * 96)
    per_key, head = 4 * 2 * 4, 2 * 50 * 8
    full = 3 * (6 * linear + per_key * (1 + 2 + 3 + 4 + 5 + 6)) + head
    rows = 3 * linear + per_key * (3 + 5 + 6)  # positions 2, 4, 5
    assert flop_limit(modules, 6, [(chosen, 3)]) == pytest.approx(full / (3 * rows + head))
    dense = 5 * linear + per_key * (2 + 3 + 4 + 5 + 6)  # documents and question, layer 0
    assert flop_limit(modules, 6, [(in_flight, 1), (chosen, 2)]) == pytest.approx(
        full / (dense + 2 * rows + head)
    )


def test_the_limit_of_a_large_model():
    """Llama-3-8B at N = 4096, r = 0.15, c = 1: 1 / (1/32 + 31/32 · share of rows)."""
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            )
        )
    modules = Modules(model)
    chosen = torch.arange(16, 4016)[torch.randperm(4000)[:600]]
    rows = torch.cat([chosen, torch.arange(4016, 4096)]).sort().values
    share = 680 / 4096
    passes = [(torch.arange(16, 4096), 1), (rows, 31)]
    assert flop_limit(modules, 4096, passes) == pytest.approx(
        1 / (1 / 32 + 31 / 32 * share), rel=0.03
    )


def test_fewer_rows_allow_more():
    modules = Modules(tiny())
    limits = []
    for step in (1, 2, 4, 8):
        rows = torch.cat([torch.arange(4, 204, step), torch.arange(204, 214)])
        passes = [(torch.arange(4, 214), 1), (rows, 2)]
        limits.append(flop_limit(modules, 214, passes))
    assert limits == sorted(limits)
    assert limits[-1] < 3  # one of three layers is dense
