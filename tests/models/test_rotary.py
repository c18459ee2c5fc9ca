"""Rotation of cached keys: the library's own, to the last bit, with the kernel and without."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models.attention import library
from models.attention.library import Unavailable
from models.kv import rotary
from models.modules import Modules
from tests.conftest import build

REASON = rotary._found()[1]
needs_kernel = pytest.mark.skipif(REASON is not None, reason=f"no kernel: {REASON}")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["kernel", "operations"])
def way(request, monkeypatch):
    """Both ways, and that it is the one that is meant."""
    if request.param == "operations":
        monkeypatch.setattr(rotary, "_found", lambda: (None, "not wanted"))
    elif REASON:
        pytest.skip(f"no kernel: {REASON}")
    else:
        monkeypatch.setattr(rotary, "by_operations_", None)


def draw(
    rows: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + dim)
    buffer = torch.randn(3, 2, rows + 5, dim, generator=generator).to(dtype)
    angles = torch.rand(rows, dim // 2, generator=generator) * 6
    angles = torch.cat([angles, angles + 0.1], 1)  # YaRN's halves need not be equal
    return buffer, (1.2 * angles.cos()).to(dtype), (1.2 * angles.sin()).to(dtype)


def test_where_there_is_a_compiler_there_is_a_kernel():
    assert REASON is None or "wrong" not in REASON


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "dim"), [(1, 16), (300, 64), (129, 10), (2, 2)])
def test_keys_are_turned_as_the_library_turns_them(way, rows, dim, dtype):
    buffer, cos, sin = draw(rows, dim, dtype)
    behind = buffer[:, :, rows:].clone()
    keys = buffer[:, :, :rows]  # as in a cache with room behind
    right = apply_rotary_pos_emb(keys, keys, cos[None], sin[None])[1]
    rotary.rotate_keys_(keys, cos, sin)
    assert torch.equal(keys, right)
    assert torch.equal(buffer[:, :, rows:], behind)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_none(way, dtype):
    buffer, cos, sin = draw(4, 32, dtype)
    buffer[1, 0, 2, 5] = torch.nan
    right = apply_rotary_pos_emb(buffer[:, :, :4], buffer[:, :, :4], cos[None], sin[None])[1]
    rotary.rotate_keys_(buffer[:, :, :4], cos, sin)
    torch.testing.assert_close(buffer[:, :, :4], right, equal_nan=True, atol=0, rtol=0)


def test_what_the_kernel_does_not_read_is_turned_without_it():
    for keys in (
        torch.randn(2, 2, 9, 32).transpose(2, 3).contiguous().transpose(2, 3),
        torch.randn(2, 2, 9, 32).double(),
        torch.randn(2, 2, 9, 32).half(),
    ):
        cos, sin = torch.randn(2, 9, 32).to(keys.dtype)
        right = apply_rotary_pos_emb(keys, keys, cos[None], sin[None])[1]
        rotary.rotate_keys_(keys, cos, sin)
        assert torch.equal(keys, right)


@needs_kernel
def test_builds_for_lesser_cpus(tmp_path):
    target = tmp_path / "lesser.so"
    command = [library.COMPILER, *library.FLAGS, "-march=haswell", str(rotary.SOURCE)]
    subprocess.run([*command, "-o", str(target)], check=True)
    kernel = ctypes.CDLL(str(target)).kvfuse_rotate
    kernel.restype = None
    assert rotary._agrees(kernel)


@needs_kernel
def test_a_kernel_that_turns_only_the_first_rows_is_not_used():
    kernel, _ = rotary._found()

    def first_rows(call, threads):
        call._obj.rows = min(call._obj.rows, 128)
        kernel(call, threads)

    assert rotary._agrees(kernel)
    assert not rotary._agrees(first_rows)


def test_without_a_compiler_and_with_a_wrong_one(monkeypatch):
    def none(source):
        raise Unavailable("no g++ here")

    monkeypatch.setattr(rotary, "load", none)
    assert rotary._found.__wrapped__() == (None, "no g++ here")
    monkeypatch.setattr(rotary, "load", lambda _: ctypes.CDLL(None))
    monkeypatch.setattr(ctypes.CDLL, "kvfuse_rotate", ctypes.CDLL(None).abs, raising=False)
    assert "was wrong" in rotary._found.__wrapped__()[1]


def test_the_kernel_is_looked_for_before_anything_is_timed(monkeypatch):
    asked = []
    monkeypatch.setattr(rotary, "lacking", lambda: asked.append(1))
    Modules(build("llama"))
    assert asked == [1]
