"""Kernels built ahead: compiled by ninja, kept with digests, found by the library elsewhere.

The library is a stand-in with its own places; ninja and the compilers are stubs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench.gpu import build as gpu_build
from bench.gpu.build import GpuBuildConfig, main
from models.attention import kernels
from models.errors import UserError
from models.sealed import unseal
from stage.options import command
from tests.models.test_toolchain import tool, tools  # noqa: F401 - a fixture

# What is built is the name of its rules file; a rules file that says "broken" cannot be.
NINJA = """case "$1" in
--version) echo 1.13 ;;
*) if grep -q broken "$4"; then echo "x.cu: error: no such thing"; exit 1; fi
   echo "[1/2] one"; echo "[2/2] two"; cp "$4" "$2/$(basename "$2").so" ;;
esac"""


@dataclass
class Module:
    """What the library knows of a module."""

    name: str
    root: Path
    text: str = "rules"
    is_aot: bool = False
    sources: tuple[str, ...] = ("a.cu", "b.cu")

    @property
    def build_dir(self) -> Path:
        return self.root / self.name

    @property
    def ninja_path(self) -> Path:
        return self.build_dir / "build.ninja"

    @property
    def jit_library_path(self) -> Path:
        return self.build_dir / f"{self.name}.so"

    def write_ninja(self) -> None:
        self.build_dir.mkdir(parents=True, exist_ok=True)
        self.ninja_path.write_text(f"{self.text} of {self.name}")


@pytest.fixture
def builds(tools, tmp_path, monkeypatch):  # noqa: F811
    """A machine that can build, and the library's two modules for every kind of model."""
    tool(tools.path, "ninja", NINJA)
    monkeypatch.setenv("PATH", f"{tools.path}:/usr/bin:/bin")
    monkeypatch.delenv("FLASHINFER_CUDA_ARCH_LIST", raising=False)
    tools.made = []

    def modules(dtype, head_dim, capability, forms):
        names = ["common", f"{str(dtype)[6:]}_{head_dim}"]
        tools.made += [Module(name, tmp_path / "jit") for name in names]
        return tools.made[-2:]

    monkeypatch.setattr(kernels, "modules", modules)
    monkeypatch.setattr(kernels, "installed", lambda: "0.7.2")
    kernels._carried.cache_clear()
    yield tools
    kernels._carried.cache_clear()


def built(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("gpu-build")]


def test_every_module_is_built_once_and_kept_with_its_digest(builds, capsys):
    assert command("gpu-build", GpuBuildConfig, main, ["ARCH=9.0a", "DTYPES=bfloat16"]) == 0
    place = kernels.folder((9, 0))
    assert place.name == "0.7.2-sm90"
    names = ["bfloat16_128", "bfloat16_64", "common"]
    assert sorted(path.stem for path in place.glob("*/*.so")) == names
    found = unseal(json.loads((place / kernels.MANIFEST).read_text()))
    assert sorted(found["modules"]) == names
    assert found["arch"] == "9.0a"
    lines = built(capsys)
    assert lines[0].startswith("gpu-build: 1 of 3 ")
    assert "3 modules in" in lines[-2]
    assert str(place) in lines[-1]


def test_what_cannot_be_compiled_is_told_with_the_log(builds, tmp_path, monkeypatch, capsys):
    broken = Module("broken", tmp_path / "jit", "broken")
    monkeypatch.setattr(gpu_build, "specifications", lambda config: [broken])
    assert command("gpu-build", GpuBuildConfig, main, []) == 2
    error = capsys.readouterr().err
    assert "cannot be compiled (x.cu: error: no such thing)" in error
    assert "Traceback" not in error
    assert "no such thing" in (tmp_path / "jit" / "broken" / "build.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ARCH=hopper"], "ARCH=hopper is no compute capability"),
        (["DTYPES=float32"], "DTYPES=float32 is none of float16, bfloat16"),
        (["HEAD_DIMS=96"], "HEAD_DIMS=96 is none of 64, 128, 256"),
        (["FORMS=all"], "FORMS=all is none of single"),
        (["JOBS=0"], "JOBS=0: give 1 or more"),
    ],
)
def test_options_that_cannot_be_are_told(words, message, capsys):
    assert command("gpu-build", GpuBuildConfig, main, words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_a_compiler_one_line_says_so(builds, capsys):
    builds.without("nvcc")
    assert command("gpu-build", GpuBuildConfig, main, []) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-build: no nvcc here")
    assert error.count("\n") == 1


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The library with a place for modules built ahead, empty as it is installed."""
    env = ModuleType("flashinfer.jit.env")
    env.FLASHINFER_AOT_DIR = tmp_path / "package" / "aot"
    for name in ("flashinfer", "flashinfer.jit"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "flashinfer.jit.env", env)
    return env


def test_a_folder_that_was_carried_here_is_read(builds, package):
    before = package.FLASHINFER_AOT_DIR
    kernels.library((9, 0))
    assert before == package.FLASHINFER_AOT_DIR
    main(GpuBuildConfig(dtypes=["bfloat16"], head_dims=[128]))
    kernels._carried.cache_clear()
    kernels.library((8, 0))
    assert before == package.FLASHINFER_AOT_DIR, "built for another GPU"
    kernels.library((9, 0))
    assert kernels.folder((9, 0)) == package.FLASHINFER_AOT_DIR


def test_modules_inside_the_package_come_first(builds, package):
    main(GpuBuildConfig(dtypes=["bfloat16"], head_dims=[128]))
    kernels._carried.cache_clear()
    before = package.FLASHINFER_AOT_DIR
    (before / "some").mkdir(parents=True)
    (before / "some" / "some.so").touch()
    kernels.library((9, 0))
    assert before == package.FLASHINFER_AOT_DIR


@pytest.mark.parametrize("damage", ["a module", "the manifest", "a module is gone"])
def test_a_damaged_folder_is_told(builds, package, damage):
    main(GpuBuildConfig(dtypes=["bfloat16"], head_dims=[128]))
    kernels._carried.cache_clear()
    place = kernels.folder((9, 0))
    module = place / "common" / "common.so"
    if damage == "a module":
        module.write_bytes(b"x" + module.read_bytes()[1:])
    elif damage == "the manifest":
        path = place / kernels.MANIFEST
        path.write_text(path.read_text().replace("9.0a", "8.0"))
    else:
        module.unlink()
    with pytest.raises(UserError, match="holds damaged kernels") as told:
        kernels.library((9, 0))
    assert "\n" not in str(told.value)


def test_a_model_s_kernels_are_compiled_before_it_runs(builds, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    kernels.ready(torch.device("cuda"), torch.bfloat16, 128, "flashinfer")
    assert all(module.jit_library_path.exists() for module in builds.made)
    assert "compiling 2 of FlashInfer's modules, 4 files" in capsys.readouterr().err
    kernels.ready(torch.device("cuda"), torch.bfloat16, 128, "flashinfer")
    assert capsys.readouterr().err == ""
    for device, backend in (("cpu", "flashinfer"), ("cuda", "sdpa")):
        builds.made.clear()
        kernels.ready(torch.device(device), torch.bfloat16, 64, backend)
        assert builds.made == []


def test_forms_follow_from_the_back_end():
    wanted = {
        "flashinfer": ("single", "paged"),
        "flashinfer:single": ("single",),
        "flashinfer:paged": ("paged",),
        "flashinfer:paged-fa3": ("paged", "paged-fa3"),
    }
    assert {name: kernels.forms_of(name) for name in wanted} == wanted


def test_a_package_without_metadata_is_no_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(__version__="9.9"))
    assert kernels.installed() == "9.9"
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    assert kernels.installed() == "unknown"
