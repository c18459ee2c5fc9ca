"""``kvfuse gpu-build``: compile FlashInfer's kernels where there is nvcc, for a GPU elsewhere.

The folder that it leaves is copied into the other machine's cache folder, under the same name, and
read there without nvcc or ninja. Both must have the same FlashInfer.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from models.atomic import writing
from models.attention import kernels, toolchain
from models.attention.flashinfer_rows import DTYPES, HEAD_DIMS
from models.errors import UserError
from models.load import settings
from models.sealed import seal
from stage.options import command, option


@dataclass
class GpuBuildConfig:
    """Compile FlashInfer's kernels ahead."""

    arch: str = option("9.0a", "the GPU's compute capability: 9.0a is Hopper, 8.0 an A100")
    dtypes: list[str] = option(["bfloat16", "float16"], "dtypes to compile for")
    head_dims: list[int] = option([128, 64], "widths of heads to compile for")
    forms: list[str] = option(list(kernels.FORMS), f"attention: {', '.join(kernels.FORMS)}")
    jobs: int | None = option(None, "compilers side by side (as cores and memory carry)")

    def __post_init__(self) -> None:
        self.capability  # noqa: B018 - raises where there is none
        known: dict[str, tuple[Any, ...]] = {
            "dtypes": tuple(map(settings.dtype_name, DTYPES)),
            "head_dims": HEAD_DIMS,
            "forms": kernels.FORMS,
        }
        for name, values in known.items():
            for one in getattr(self, name):
                if one not in values:
                    raise UserError(
                        f"{name.upper()}={one} is none of {', '.join(map(str, values))}"
                    )
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"JOBS={self.jobs}: give 1 or more")

    @property
    def capability(self) -> tuple[int, int]:
        """``(9, 0)`` of ``9.0a``."""
        major, _, minor = self.arch.rstrip("abcdef").partition(".")
        if not (major.isdigit() and minor.isdigit()):
            raise UserError(f"ARCH={self.arch} is no compute capability: give one like 9.0a")
        return int(major), int(minor)


def main(config: GpuBuildConfig) -> None:
    """Compile what is missing, module by module, and say where it is.

    Raises
    ------
    UserError : a tool is lacking, FlashInfer is, or a module cannot be compiled.
    """
    if lacking := toolchain.lack(hopper=config.capability[0] == kernels.HOPPER):
        raise UserError(lacking)
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = config.arch
    place = kernels.folder(config.capability)
    wanted = specifications(config)
    jobs = config.jobs or toolchain.jobs()
    begun = time.perf_counter()
    for i, module in enumerate(wanted, 1):
        start, worked = time.perf_counter(), _compilers_seconds()
        files = f"{len(module.sources)} files"
        kernels.compile_one(module, jobs)
        keep(place, module)
        minutes = (time.perf_counter() - start) / 60
        cpu = (_compilers_seconds() - worked) / 60
        print(
            f"gpu-build: {i} of {len(wanted)}  {minutes:5.1f} min, {cpu:5.1f} of CPU  {files:<8}  "
            f"{module.name}",
            flush=True,
        )
        describe(place, config)
    total = (time.perf_counter() - begun) / 60
    megabytes = sum(path.stat().st_size for path in place.glob("*/*.so")) / 1e6
    print(f"gpu-build: {len(wanted)} modules in {total:.1f} min, {jobs} at a time")
    print(
        f"gpu-build: {megabytes:.1f} MB in {place}; copy it into the other machine's cache folder"
    )


def _compilers_seconds() -> float:
    """Seconds that cores have worked for the compilers that ended so far."""
    times = os.times()
    return times.children_user + times.children_system


def specifications(config: GpuBuildConfig) -> list[Any]:
    """The modules that were asked for, each once."""
    found: dict[str, Any] = {}
    try:
        for name, head_dim in product(config.dtypes, config.head_dims):
            for module in kernels.modules(
                settings.DTYPES[name], head_dim, config.capability, config.forms
            ):
                found.setdefault(module.name, module)
    except ImportError as error:
        raise UserError(
            f"FlashInfer cannot be imported here ({error}): make setup EXTRAS=dev,gpu"
        ) from error
    return list(found.values())


def keep(place: Path, module: Any) -> None:
    """Put a compiled module where the library looks for modules built ahead."""
    path = place / module.name / f"{module.name}.so"
    with writing(path) as file, Path(module.jit_library_path).open("rb") as built:
        shutil.copyfileobj(built, file)


def describe(place: Path, config: GpuBuildConfig) -> None:
    """Write what the folder holds, beside a digest of every file."""
    paths = sorted(place.glob("*/*.so"))
    content = {
        "flashinfer": kernels.installed(),
        "arch": config.arch,
        "nvcc": toolchain.nvcc()[1],
        "torch": str(torch.__version__),
        "modules": {path.stem: kernels.digest_of(path) for path in paths},
    }
    with writing(place / kernels.MANIFEST) as file:
        file.write(json.dumps(seal(content), indent=2).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(command("gpu-build", GpuBuildConfig, main))
