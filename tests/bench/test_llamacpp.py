"""llama.cpp: found, not found, and what is asked of it, without the package itself."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import ClassVar

import pytest

from bench.llamacpp import REMEDY, LlamaCpp
from models.load.source import gguf_file


class FakeLlama:
    """Notes what is done to it; its logits prefer the last token that it was given."""

    made: ClassVar[list[FakeLlama]] = []

    def __init__(self, **options) -> None:
        self.options, self.done, self.ctx = options, [], self
        FakeLlama.made.append(self)

    def reset(self):
        self.done.append("reset")

    def eval(self, tokens):
        self.done.append(tokens)

    def close(self):
        self.done.append("close")

    def n_vocab(self):
        return 16


def logits_of(ctx, row):
    assert row == -1
    values = [float(i == ctx.done[-1][-1]) for i in range(16)]
    return ctypes.cast((ctypes.c_float * 16)(*values), ctypes.POINTER(ctypes.c_float))


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "tiny.Q4_1.gguf"
    path.touch()
    return path


@pytest.fixture
def fake(monkeypatch):
    module = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", None)
    module.__version__ = "0.3.x"
    module.Llama, module.llama_get_logits_ith = FakeLlama, logits_of
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(FakeLlama, "made", [])


def test_a_model_is_loaded_once_a_length_and_starts_empty_every_time(gguf, fake):
    llama, note = LlamaCpp.find(str(gguf), threads=3)
    assert "0.3.x" in note
    assert gguf.name in note
    for ids in ([1, 2, 9], [1, 2, 9], [4] * 20):
        assert llama.prefill_ms(ids) >= 0
    llama.close()
    llama.close()
    short, long = FakeLlama.made
    assert short.done == ["reset", [1, 2, 9], "reset", [1, 2, 9], "close"]
    assert long.done == ["reset", [4] * 20, "close"]
    for model, least in ((short, 3), (long, 20)):
        assert model.options["n_ctx"] >= least
        assert model.options["n_threads"] == model.options["n_threads_batch"] == 3
        assert model.options["n_gpu_layers"] == 0
    short.done = [[7]]
    assert llama.first_token(short) == 7


def test_without_the_package_it_says_how_to_get_it(gguf, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    llama, note = LlamaCpp.find(str(gguf), threads=1)
    assert llama is None
    assert REMEDY in note


def test_a_package_that_does_not_load_is_told_and_not_fatal(gguf, tmp_path, monkeypatch):
    (tmp_path / "llama_cpp.py").write_text("raise OSError('libgomp.so.1: not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    llama, note = LlamaCpp.find(str(gguf), threads=1)
    assert llama is None
    assert "libgomp.so.1" in note


def test_the_file_behind_a_model(gguf, tmp_path):
    assert gguf_file(str(gguf)) == gguf
    assert gguf_file(str(tmp_path)) is None
    assert gguf_file(str(tmp_path / "missing.gguf")) is None
    assert gguf_file("llama3-8b") is None
    assert gguf_file("smollm2-135m").suffix == ".gguf"
    assert "no GGUF file" in LlamaCpp.find("llama3-8b", threads=1)[1]
