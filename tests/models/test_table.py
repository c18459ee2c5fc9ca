"""An LM head over the embedding's own table: its products, its bounds, and where there is none."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch
from torch import nn

from models.attention import library
from models.attention.library import Unavailable
from models.linear import layers, table
from models.linear.packed import PackedLinear
from tests.conftest import build

REASON = table.lacking(torch.zeros(2, 16))
needs_kernel = pytest.mark.skipif(REASON is not None, reason=f"no kernel: {REASON}")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def draw(rows: int, words: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + words + dim)
    hidden, weight = (torch.randn(n, dim, generator=generator) for n in (rows, words))
    return hidden.to(dtype), (weight / dim**0.5).to(dtype)


def head(weight: torch.Tensor) -> table.TableHead:
    return table.TableHead(nn.Parameter(weight, requires_grad=False))


def test_where_there_is_a_compiler_there_is_a_kernel():
    assert REASON is None or "wrong" not in REASON


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "words", "dim"),
    [
        (1, 1, 16),
        (1, 500, 576),
        (3, 194, 50),
        (8, 385, 64),
        (9, 577, 48),
        (21, 100, 7),
        (40, 5, 33),
    ],
)
def test_products_are_those_of_numbers_in_double(rows, words, dim, dtype):
    hidden, weight = draw(rows, words, dim, dtype)
    found = head(weight)(hidden)
    right = hidden.double() @ weight.double().T
    assert found.shape == (rows, words)
    assert found.dtype == dtype
    limit = TOLERANCE[dtype] * (1 + right.abs())
    assert bool(((found.double() - right).abs() <= limit).all())


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it(dtype):
    hidden, weight = draw(19, 250, 72, dtype)
    together = head(weight)(hidden)
    for count in range(1, 10):
        for first in range(0, 19 - count, count):
            alone = head(weight)(hidden[first : first + count])
            assert torch.equal(alone, together[first : first + count])


@needs_kernel
def test_hidden_states_of_any_shape_and_layout():
    hidden, weight = draw(12, 90, 32, torch.float32)
    right = head(weight)(hidden)
    assert torch.equal(head(weight)(hidden[4]), right[4])
    assert torch.equal(head(weight)(hidden.view(2, 6, 32)), right.view(2, 6, 90))
    assert torch.equal(head(weight)(hidden.T.contiguous().T), right)
    assert head(weight)(hidden[:0]).shape == (0, 90)


@needs_kernel
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_comes_out_where_it_is_read(bad):
    hidden, weight = draw(3, 40, 24, torch.float32)
    weight[7, 20] = bad
    found = head(weight)(hidden).isfinite()
    assert not found[:, 7].any()
    assert found[:, :7].all()
    assert found[:, 8:].all()


@needs_kernel
def test_what_does_not_fit_is_refused():
    hidden, weight = draw(3, 40, 24, torch.float32)
    for wrong in (hidden[:, :20], hidden.bfloat16(), hidden.double()):
        with pytest.raises(ValueError, match="no kernel for"):
            head(weight)(wrong)
    assert "float16" in table.lacking(weight.half())
    assert "row by row" in table.lacking(weight.T)


@needs_kernel
@pytest.mark.parametrize("flags", [["-march=haswell"], ["-mno-avx512bf16"]])
def test_builds_for_lesser_cpus(tmp_path, flags):
    target = tmp_path / "lesser.so"
    command = [library.COMPILER, *library.FLAGS, *flags, str(table.SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    kernel = ctypes.CDLL(str(target)).kvfuse_product
    kernel.restype = None
    assert table._agrees(kernel)


@needs_kernel
def test_a_kernel_that_computes_nonsense_is_not_used(monkeypatch):
    monkeypatch.setattr(table, "load", lambda _: ctypes.CDLL(None))
    monkeypatch.setattr(ctypes.CDLL, "kvfuse_product", ctypes.CDLL(None).abs, raising=False)
    assert "was wrong" in table._found.__wrapped__()[1]


def test_without_a_compiler_a_tied_head_is_packed_as_others_are(monkeypatch):
    def none(source):
        raise Unavailable("no g++ here: install it")

    monkeypatch.setattr(table, "load", none)
    monkeypatch.setattr(table, "_found", table._found.__wrapped__)
    monkeypatch.setattr(layers, "SMALLEST", 0)
    model = build("llama", tie_word_embeddings=True)
    layers.pack(model, lambda plain, packed: True)
    assert isinstance(model.lm_head, PackedLinear)
    assert "kernel" not in layers.path(model)
    assert layers.prospect(torch.float32).endswith(
        "no kernel for a tied head: no g++ here: install it"
    )
