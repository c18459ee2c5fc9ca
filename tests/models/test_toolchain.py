"""What FlashInfer needs to compile is really looked for, and each lack is one line with its remedy.

Stubs of the tools stand on ``PATH``; nothing of this machine's own is seen.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from bench.gpu.check import main as gpu_check
from bench.gpu.config import GpuCheckConfig
from kvfuse import doctor
from models.attention import flashinfer_rows, kernels, toolchain
from models.attention.registry import choose_backend
from models.errors import UserError
from stage import environment, model
from stage.config import ModelConfig
from stage.options import command

CUDA = torch.device("cuda")
NVCC = """case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
--dryrun) echo "#$ TOP={top}/bin/.." >&2 ;;
esac"""
PLAIN = "echo {name} 1.13"


def tool(folder, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class Tools:
    """A machine whose tools are stubs; a toolkit of its own, called by a script in ``PATH``."""

    def __init__(self, root, monkeypatch) -> None:
        self.path, self.home, self.scripts = root / "path", root / "cuda", root / "scripts"
        monkeypatch.setenv("PATH", f"{self.path}:/nowhere")
        for name in ("CUDA_HOME", "CUDA_PATH", "CC", "CXX", "MAX_JOBS"):
            monkeypatch.delenv(name, raising=False)
        for name in ("FLASHINFER_EXTRA_LDFLAGS", "FLASHINFER_EXTRA_CUDAFLAGS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KVFUSE_CACHE", str(root / "cache"))
        monkeypatch.setattr(toolchain, "DEFAULT_HOME", str(root / "none"))
        monkeypatch.setattr(toolchain, "_scripts", lambda: self.scripts)
        monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        self.nvcc("13.0")
        for name in ("c++", "g++", "ninja"):
            tool(self.path, name, PLAIN.format(name=name))
        (self.home / "include").mkdir()
        (self.home / "include" / toolchain.HEADER).touch()

    def nvcc(self, version: str) -> None:
        for folder in (self.path, self.home / "bin"):
            tool(folder, "nvcc", NVCC.format(version=version, top=self.home))

    def without(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink()


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Tools:
    kernels.obstacle.cache_clear()
    yield Tools(tmp_path, monkeypatch)
    kernels.obstacle.cache_clear()


LACKS = {
    "nvcc": (lambda tools: tools.without("nvcc"), "no nvcc here: install the CUDA toolkit 13.x"),
    "ninja": (lambda tools: tools.without("ninja"), f"no ninja here: {sys.executable} -m pip inst"),
    "compiler": (lambda tools: tools.without("c++"), r"no C++ compiler here (c++): apt install"),
    "host compiler": (lambda tools: tools.without("g++"), r"no C++ compiler here (g++): apt"),
    "an old nvcc": (lambda tools: tools.nvcc("12.4"), "nvcc 12.4 is too old, FlashInfer needs"),
    "another CUDA": (lambda tools: tools.nvcc("12.9"), "nvcc 12.9 does not fit PyTorch, which"),
    "cuRAND": (
        lambda tools: (tools.home / "include" / toolchain.HEADER).unlink(),
        "has no curand_kernel.h",
    ),
    "an nvcc without a toolkit": (
        lambda tools: tool(tools.path, "nvcc", "echo none"),
        "nvcc does not tell where its toolkit is: install the CUDA toolkit 13.x",
    ),
    "a broken nvcc": (
        lambda tools: tool(tools.home / "bin", "nvcc", "echo no such library >&2; exit 127"),
        "nvcc does not run here (no such library)",
    ),
}


def test_where_every_tool_is_there_nothing_is_lacking(tools):
    assert toolchain.lack() is None
    assert toolchain.nvcc() == (tools.home, "13.0")


@pytest.mark.parametrize("name", LACKS)
def test_each_lack_is_one_line(tools, name):
    spoil, message = LACKS[name]
    spoil(tools)
    told = toolchain.lack()
    assert message in told
    assert "\n" not in told


def test_ninja_may_lie_in_the_environment_alone(tools):
    tools.without("ninja")
    tool(tools.scripts, "ninja", PLAIN.format(name="ninja"))
    assert toolchain.lack() is None
    toolchain.prepare()
    assert os.environ["PATH"].split(os.pathsep)[0] == str(tools.scripts)
    assert os.environ["CUDA_HOME"] == str(tools.home)
    assert int(os.environ["MAX_JOBS"]) >= 1


def test_only_hopper_s_kernels_need_the_header(tools):
    LACKS["cuRAND"][0](tools)
    assert toolchain.lack(hopper=False) is None


def test_compilers_side_by_side_are_bounded_by_cores_and_memory(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for free, jobs in ((100, 16), (24, 6), (1, 1)):
        memory = SimpleNamespace(available=free << 30)
        monkeypatch.setattr(toolchain.psutil, "virtual_memory", lambda memory=memory: memory)
        assert toolchain.jobs() == jobs


@pytest.fixture
def gpu(tools, monkeypatch):
    """A machine with a GPU and FlashInfer, none of whose modules is built."""
    monkeypatch.setattr(flashinfer_rows, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    built = SimpleNamespace(is_aot=False)
    monkeypatch.setattr(kernels, "modules", lambda *kind: [built])
    tools.built = built
    return tools


def test_auto_takes_flashinfer_where_it_can_be_compiled_or_is_there(gpu):
    assert choose_backend(CUDA, torch.bfloat16, 128) == "flashinfer"
    gpu.without("ninja", "nvcc")
    kernels.obstacle.cache_clear()
    assert choose_backend(CUDA, torch.bfloat16, 128) == "sdpa"
    gpu.built.is_aot = True
    kernels.obstacle.cache_clear()
    assert choose_backend(CUDA, torch.bfloat16, 128) == "flashinfer"


def test_a_broken_installation_is_one_line(gpu, monkeypatch):
    def broken(*kind):
        raise ImportError("libcudart.so.13: cannot open\nmore of it")

    monkeypatch.setattr(kernels, "modules", broken)
    with pytest.raises(UserError, match=r"libcudart.so.13: cannot open\): make setup") as told:
        choose_backend(CUDA, torch.bfloat16, 128, "flashinfer")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["nvcc", "ninja", "compiler", "an old nvcc"])
def test_doctor_eval_and_gpu_check_say_it(gpu, name, monkeypatch, capsys, tmp_path):
    spoil, message = LACKS[name]
    spoil(gpu)
    assert command("gpu-check", GpuCheckConfig, gpu_check, []) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

    for module in (doctor, model):
        monkeypatch.setattr(module, "pick_device", lambda name: CUDA)
    found = {finding.what: finding for finding in doctor.hardware(doctor.DoctorConfig())}
    assert message in found["flashinfer"].remedy
    assert "sdpa" in found["flashinfer"].found

    unloaded = SimpleNamespace(
        source=None,
        config=SimpleNamespace(
            head_dim=128, num_hidden_layers=2, rope_parameters={}, max_position_embeddings=64
        ),
    )
    weights = model.Weights(unloaded, ModelConfig())
    assert weights.backend == "sdpa"
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    found = environment.describe({}, CUDA, torch.bfloat16, "sdpa", 128)
    assert message in found["not_flashinfer"]
    with pytest.raises(UserError, match="BACKEND=flashinfer cannot be used") as told:
        model.Weights(unloaded, ModelConfig(backend="flashinfer"))
    assert "\n" not in str(told.value)
