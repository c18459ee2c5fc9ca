"""Codecs: how far what is read lies from what was written, in every group, dtype and odd size."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from models import codecs
from models.codecs import KEYS, VALUES, fp8
from models.codecs.hadamard import mixed
from models.errors import UserError
from models.finite import NotFinite

BUILT_IN = ["none", "bf16", "fp8", "int8", "int4", "k8v4"]
OPTIONS = [":tokens=7:channels=24", ":hadamard=1", ":spare=1"]
SPECS = [*BUILT_IN, *(name + option for name, option in product(("fp8", "int8", "int4"), OPTIONS))]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 64), (63, 80), (64, 96), (137, 128), (5, 256)]
LAYERS = 4
EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}


def rows_of(n: int, dim: int, dtype: torch.dtype, seed: int = 0, heads: int = 3) -> Tensor:
    """Rows as keys are: channels of their own size and offset, some far out."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(heads, n, dim, generator=generator)
    size = torch.randn(heads, 1, dim, generator=generator).exp()
    offset = torch.randn(heads, 1, dim, generator=generator) * size
    offset[:, :, ::9] *= 50
    return (rows * size + offset).to(dtype)


def through(codec: codecs.BaseCodec, kind: int, rows: Tensor, layer: int = 1) -> Tensor:
    """Written and read, into a view of a larger cache of which nothing else may change."""
    heads, n, dim = rows.shape
    cache = torch.full((heads, n + 3, dim), 7.0, dtype=rows.dtype)
    codec.decode(kind, codec.encode(kind, layer, LAYERS, rows), cache[:, :n])
    assert (cache[:, n:] == 7).all()
    return cache[:, :n]


def ranges(rows: Tensor, axis: int, size: int) -> np.ndarray:
    """Each number's group's range, by plain numpy: ``[H, n, D]``."""
    plain = rows.float().numpy()
    out = np.empty_like(plain)
    for start in range(0, plain.shape[axis], size):
        group = np.take(plain, range(start, min(start + size, plain.shape[axis])), axis)
        index = [slice(None)] * 3
        index[axis] = slice(start, start + size)
        out[tuple(index)] = group.max(axis, keepdims=True) - group.min(axis, keepdims=True)
    return out


def errors(found: Tensor, rows: Tensor) -> np.ndarray:
    return (found.double() - rows.double()).abs().numpy()


@pytest.mark.parametrize("spec", SPECS)
def test_parts_are_plain_and_a_name_and_a_shape_tell_what_they_are(spec):
    codec = codecs.build(spec)
    for dtype, (n, dim), kind in product(DTYPES, SIZES, (KEYS, VALUES)):
        rows = rows_of(n, dim, dtype)
        parts = codec.encode(kind, 1, LAYERS, rows)
        assert all(part.is_contiguous() and part.device.type == "cpu" for part in parts.values())
        found = through(codecs.build(codecs.spec_of(codec)), kind, rows)
        assert found.isfinite().all()


@pytest.mark.parametrize("spec", ["int8", "int4", "k8v4", "int8:tokens=7:channels=24"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_are_within_half_a_step_of_their_group(spec, dtype):
    codec = codecs.build(spec)
    for (n, dim), kind in product(SIZES, (KEYS, VALUES)):
        rows = rows_of(n, dim, dtype, seed=n)
        group = (1, codec.tokens) if kind == KEYS else (2, codec.channels)
        levels = 2 ** codec.bits[kind] - 1
        step = ranges(rows, *group) / levels * (1 + 2**-9)  # it is rounded to half precision
        bound = step / 2 + np.abs(rows.float().numpy()) * EPS[dtype] * 2 + step * EPS[dtype] * 2
        assert (errors(through(codec, kind, rows), rows) <= bound + 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_floating_point_is_within_a_share_of_itself(dtype):
    for (n, dim), kind in product(SIZES, (KEYS, VALUES)):
        rows = rows_of(n, dim, dtype, seed=n)
        size = np.abs(rows.float().numpy())
        assert (errors(through(codecs.build("bf16"), kind, rows), rows) <= size * 2**-8).all()
        assert (errors(through(codecs.build("none"), kind, rows), rows) == 0).all()
        axis = 1 + kind
        largest = size.max(axis, keepdims=True)
        bound = size * (2**-4 + EPS[dtype]) + largest / 448 * 2**-9  # its least step above zero
        assert (errors(through(codecs.build("fp8"), kind, rows), rows) <= bound).all()


@pytest.mark.parametrize("spec", ["int8", "int4", "k8v4", "int4:tokens=5"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_equal_numbers_are_exact(spec, dtype):
    codec = codecs.build(spec)
    for kind in (KEYS, VALUES):
        rows = torch.randn(3, 1, 64) if kind == KEYS else torch.randn(3, 70, 1)
        rows = (rows * 300).expand(3, 70, 64).to(dtype)
        assert torch.equal(through(codec, kind, rows), rows)


def test_a_channel_far_out_does_not_blur_the_others():
    rows = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(1))
    alone = errors(through(codecs.build("int4"), KEYS, rows), rows)
    rows[:, :, 5] = rows[:, :, 5] * 40 + 3000
    beside = errors(through(codecs.build("int4"), KEYS, rows), rows)
    others = [channel for channel in range(64) if channel != 5]
    assert (alone[:, :, others] == beside[:, :, others]).all()
    assert beside[:, :, 5].max() < 40 * 8 / 15


@pytest.mark.parametrize("spec", ["fp8", "int8", "int4"])
def test_numbers_beyond_half_precision_are_held(spec):
    """Where scales in float16 would overflow, or vanish."""
    codec = codecs.build(spec)
    for size in (1e-30, 1e-9, 1e7, 9e37):
        rows = torch.rand(2, 70, 64, generator=torch.Generator().manual_seed(2)) * size
        for kind in (KEYS, VALUES):
            assert errors(through(codec, kind, rows), rows).max() <= size / 15
    rows = torch.tensor([-65504.0, 65504.0, 1.0, 0.0]).half().expand(2, 3, 4)
    assert through(codec, VALUES, rows).isfinite().all()


def test_numbers_beyond_all_codecs_are_refused():
    with pytest.raises(UserError, match="values of layer 1 reach beyond 1e"):
        codecs.build("int8").encode(VALUES, 1, LAYERS, torch.full((1, 2, 4), 3e38))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_at_writing(spec, bad):
    rows = rows_of(5, 64, torch.float32)
    rows[1, 2, 3] = bad
    with pytest.raises(NotFinite, match="the keys of layer 0 hold NaN"):
        codecs.build(spec).encode(KEYS, 0, LAYERS, rows)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "hadamard" not in spec])
def test_what_was_read_is_written_again_byte_by_byte(spec):
    """In float32. In half precision a group's largest is rounded once more, and its scale with it;

    behind a Hadamard matrix numbers come back rounded: see the bound of the next test.
    """
    codec = codecs.build(spec)
    for (n, dim), kind in product(SIZES, (KEYS, VALUES)):
        first = codec.encode(kind, 1, LAYERS, rows_of(n, dim, torch.float32, seed=n))
        out = torch.empty(3, n, dim)
        codec.decode(kind, first, out)
        again = codec.encode(kind, 1, LAYERS, out)
        assert first.keys() == again.keys()
        for name, part in first.items():
            assert torch.equal(part.view(torch.uint8), again[name].view(torch.uint8)), name


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_writing_again_moves_no_number_by_more_than_rounding(spec, dtype):
    codec = codecs.build(spec)
    for (n, dim), kind in product(SIZES, (KEYS, VALUES)):
        rows = rows_of(n, dim, dtype, seed=n)
        once = through(codec, kind, rows)
        twice = through(codec, kind, once)
        scale = once.abs().amax((1, 2), keepdim=True).double()
        drift = (twice.double() - once.double()).abs()
        step = errors(once, rows).max() if "fp8" not in spec else 0
        assert (drift <= scale * EPS[dtype] * 4 + step).all()


def test_spared_layers_are_kept_as_they_are():
    codec, rows = codecs.build("int4:spare=1"), rows_of(20, 64, torch.float32)
    exact = [torch.equal(through(codec, KEYS, rows, layer), rows) for layer in range(LAYERS)]
    assert exact == [True, False, False, True]


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 7])
def test_mixing_is_orthonormal_and_its_own_inverse(dim):
    rows = torch.randn(4, dim, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(mixed(mixed(rows)), rows)
    torch.testing.assert_close(mixed(rows) @ mixed(rows).T, rows @ rows.T)
    block = dim & -dim
    single = mixed(torch.eye(dim)[0])
    assert (single[:block].abs() - block**-0.5).abs().max() < 1e-6
    assert not single[block:].any()


def test_bytes_by_number():
    """int8 and int4 in float32: a scale of 2 bytes and a least of 4 for 64 numbers."""
    rows = torch.randn(3, 640, 64)
    for spec, bits in {"none": 32, "bf16": 16, "fp8": 8.25, "int8": 8.75, "int4": 4.75}.items():
        for kind in (KEYS, VALUES):
            parts = codecs.build(spec).encode(kind, 0, LAYERS, rows)
            assert sum(part.nbytes for part in parts.values()) * 8 == bits * rows.numel()


def test_specs_are_short_and_say_what_they_are():
    for spec in ("none", "int8", "int4:tokens=32", "fp8:hadamard=1:spare=2"):
        assert codecs.spec_of(codecs.build(spec)) == spec
    assert set(codecs.names()) == set(BUILT_IN)
    for wrong, why in {
        "int9": "did you mean int8",
        "none:tokens=3": "none keeps rows as they are, has no options",
        "int8:tokens=0": "TOKENS=0 must be at least 1",
        "int8:bits=2": "int8 has no option 'bits'",
    }.items():
        with pytest.raises(UserError, match=why):
            codecs.build(wrong)


def test_all_numbers_of_fp8_are_widened_as_the_library_does():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[codes.float().isfinite()]
    out = torch.empty(len(codes))
    fp8.widen(codes, out)
    assert torch.equal(out, codes.float())
