"""FlashInfer is called by its contract; where there is a GPU, its kernels equal masked SDPA."""

import sys

import numpy as np
import pytest
import torch

from models import gate
from models.attention import flashinfer_rows, paged
from models.attention.flashinfer_rows import FlashInferRows
from models.attention.kernels import FORMS
from models.attention.masked import MaskedRows
from models.attention.registry import rows_for
from models.engine import Engine
from tests.conftest import build, random_prompt
from tests.models.fake_flashinfer import FakeFlashInfer

N = 300
REST_MASK = paged.rest_mask
CASES = {
    "scattered": torch.randperm(N, generator=torch.Generator().manual_seed(0))[:60].sort().values,
    "few": torch.tensor([0, 3, 4, 17, 63, 64, 99]),
    "first": torch.tensor([0]),
    "one-row": torch.tensor([150]),
    "last": torch.tensor([N - 1]),
    "all": torch.arange(N),
    "tail": torch.arange(N - 70, N),
    "run": torch.arange(20, 90),
    "two-blocks": torch.cat([torch.arange(40, 80), torch.arange(N - 30, N)]),
}
EXPECTED = dict.fromkeys(("first", "one-row", "last"), "decode")
EXPECTED |= dict.fromkeys(("all", "tail", "run"), "causal")
EXPECTED |= dict.fromkeys(("scattered", "few", "two-blocks"), "single")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", FakeFlashInfer)
    FakeFlashInfer.calls.clear()
    return FakeFlashInfer


def tensors(rows: int, heads: int = 6, kv_heads: int = 2, dim: int = 16):
    """Queries as the library's projections leave them; keys and values in a buffer with room."""
    generator = torch.Generator().manual_seed(rows)
    kv = torch.randn(2, 3, kv_heads, N + 13, dim, generator=generator)
    query = torch.randn(1, rows, heads, dim, generator=generator).transpose(1, 2)
    return query, kv[0, 1][None, :, :N], kv[1, 1][None, :, :N]


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("case", sorted(CASES))
def test_every_form_equals_masked_rows(fake, case, form):
    positions = CASES[case]
    query, key, value = tensors(len(positions))
    rows = FlashInferRows(positions, N, form)
    got = rows.attend(query, key, value, 0.2)
    assert torch.allclose(got, MaskedRows(positions, N).attend(query, key, value, 0.2), atol=1e-5)
    wanted = form if form and EXPECTED[case] == "single" else EXPECTED[case]
    assert rows.form == wanted
    assert fake.calls[-1] == wanted.removesuffix("-fa3")


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 2), (14, 2), (4, 1)])
def test_heads_of_a_group_share_their_keys(fake, heads, kv_heads):
    for positions in CASES.values():
        query, key, value = tensors(len(positions), heads, kv_heads)
        got = rows_for("flashinfer", positions, N).attend(query, key, value, 0.2)
        reference = MaskedRows(positions, N).attend(query, key, value, 0.2)
        assert torch.allclose(got, reference, atol=1e-5)


def test_many_scattered_rows_are_paged_unless_told_otherwise(fake):
    positions = torch.arange(0, 2 * flashinfer_rows.PAGED_ROWS, 2)
    assert rows_for("flashinfer", positions, 600).form == "paged"
    assert rows_for("flashinfer", positions[1:], 600).form == "single"
    assert rows_for("flashinfer:single", positions, 600).form == "single"
    assert rows_for("flashinfer:paged-fa3", positions[1:], 600).form == "paged-fa3"
    assert rows_for("flashinfer:single", torch.arange(600), 600).form == "causal"


def test_only_a_wide_run_of_rows_leaves_the_choice_of_kernel_to_the_library(fake, monkeypatch):
    chosen = []
    prefill = fake.single_prefill_with_kv_cache

    def spy(*args, backend, **kwargs):
        chosen.append(backend)
        return prefill(*args, backend=backend, **kwargs)

    monkeypatch.setattr(fake, "single_prefill_with_kv_cache", spy)
    for count in (flashinfer_rows.FA3_ROWS, flashinfer_rows.FA3_ROWS - 1):
        kv = torch.zeros(1, 1, 600, 16)
        rows = FlashInferRows(torch.arange(600 - count, 600), 600)
        rows.attend(torch.zeros(1, 1, count, 16), kv, kv, 1.0)
    assert chosen == ["auto", "fa2"]


@pytest.mark.parametrize("case", ["scattered", "few", "two-blocks"])
def test_bits_are_packed_as_numpy_packs_them(fake, case):
    positions = CASES[case]
    keys = int(positions[-1]) + 1
    mask = np.arange(keys)[None, :] <= positions.numpy()[:, None]
    wanted = np.packbits(mask.ravel(), bitorder="little")
    assert FlashInferRows(positions, N, "single").packed.numpy().tolist() == wanted.tolist()


def test_a_mask_of_the_wrong_size_is_refused(fake, monkeypatch):
    monkeypatch.setattr(fake, "packbits", lambda x, bitorder: torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="3 mask bytes"):
        FlashInferRows(CASES["scattered"], N, "single")


def test_a_row_beyond_the_keys_is_refused(fake):
    with pytest.raises(ValueError, match="has only 299 keys"):
        FlashInferRows(torch.tensor([1, N - 1]), N - 1)


@pytest.mark.parametrize("form", ["single", "paged"])
def test_the_engine_passes_its_gates_on_flashinfer(fake, form):
    engine = Engine(build("llama"))
    engine.backend = f"flashinfer:{form}"
    result = gate.run(engine, random_prompt(9, [70, 70, 33], 17), [1])
    assert result.passed, result
    assert set(fake.calls) == {"decode", "causal", form}
    assert result.checks[-1].name == gate.KERNELS


def test_a_kernel_that_is_off_by_one_key_fails_the_gate(fake, monkeypatch):
    """Where no logit of a small model would tell."""
    monkeypatch.setattr(paged, "rest_mask", lambda blocks, rows: REST_MASK(blocks, rows + 1))
    engine = Engine(build("llama"))
    engine.backend = "flashinfer:paged"
    assert not gate.kernels_check(engine.modules, engine.backend).passed


gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or flashinfer_rows.find_spec("flashinfer") is None,
    reason="needs a GPU and flashinfer",
)


@gpu
@pytest.mark.parametrize(("dtype", "dim"), [(torch.bfloat16, 128), (torch.float16, 64)])
def test_on_a_gpu_every_case_equals_masked_sdpa(dtype, dim):
    from models.attention.equivalence import run

    results = run(torch.device("cuda"), [dtype], [dim], lengths=[300, 2048])
    assert not [result for result in results if not result.passed]
