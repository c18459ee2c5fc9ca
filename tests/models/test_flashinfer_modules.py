"""What is compiled ahead is what the library's own functions load; where FlashInfer is installed.

They are called on a CPU, up to the moment at which they would load a compiled module.
"""

from __future__ import annotations

import pytest
import torch

from models.attention import kernels

flashinfer = pytest.importorskip("flashinfer")
N, HEADS, DIM = 8, 2, 128


class Loads(Exception):
    """Instead of compiling: the name of the module that a call asks for."""


@pytest.fixture
def states(monkeypatch):
    from flashinfer.jit import core

    def told(spec):
        raise Loads(spec.name)

    monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", "9.0a")
    monkeypatch.setattr(core.JitSpec, "build_and_load", told)
    return torch.zeros(3, N, HEADS, DIM, dtype=torch.bfloat16)


def names(*forms: str) -> list[str]:
    found = kernels.modules(torch.bfloat16, DIM, (9, 0), forms)
    return [module.name for module in found]


CALLS = {
    "prefill": lambda q, k, v: flashinfer.single_prefill_with_kv_cache(
        q, k, v, causal=True, backend="fa2"
    ),
    "prefill fa3": lambda q, k, v: flashinfer.single_prefill_with_kv_cache(
        q, k, v, causal=True, backend="fa3"
    ),
    "decode": lambda q, k, v: flashinfer.single_decode_with_kv_cache(
        q[0], k, v, use_tensor_cores=True
    ),
    "packbits": lambda q, k, v: flashinfer.packbits(q.flatten() > 0, bitorder="little"),
    "merge": lambda q, k, v: flashinfer.merge_state_in_place(
        q, torch.zeros(N, HEADS), k, torch.zeros(N, HEADS)
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_loads_a_module_that_is_made(states, call):
    with pytest.raises(Loads) as loaded:
        CALLS[call](*states)
    assert str(loaded.value) in names("single", "paged")


@pytest.mark.parametrize("backend", ["fa2", "fa3"])
def test_a_wrapper_loads_a_module_that_is_made(states, backend):
    from flashinfer.prefill import get_batch_prefill_module

    kind = torch.bfloat16
    rest = (DIM, DIM, 0, False, False, False)
    with pytest.raises(Loads) as loaded:
        get_batch_prefill_module(backend, kind, kind, kind, torch.int32, *rest)
    assert str(loaded.value) in names("paged", "paged-fa3")
    assert (str(loaded.value) in names("paged")) == (backend == "fa2")


def test_only_what_the_forms_need_is_made():
    alone, paged, both = names("single"), names("paged"), names("paged", "paged-fa3")
    assert set(alone) < set(paged) < set(both)
    assert [len(found) for found in (alone, paged, both)] == [3, 5, 6]
