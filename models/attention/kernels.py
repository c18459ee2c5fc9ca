"""FlashInfer's compiled modules: which ones a model asks for, where they are, and making them.

The library compiles a module when it is first called. Here that happens before anything is timed,
with progress, and only for the modules at hand; or ahead, on another machine, into a folder that is
carried (``kvfuse gpu-build``) and read without nvcc or ninja.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from models.attention import toolchain
from models.errors import UserError
from models.load.source import cache_dir
from models.sealed import parse, unseal

FORMS = ("single", "paged", "paged-fa3")
HOPPER = 9  # major compute capability
MANIFEST = "kernels.json"


def installed() -> str:
    """FlashInfer's version, as its metadata or else the package itself tells."""
    try:
        return version("flashinfer-python")
    except PackageNotFoundError:
        with contextlib.suppress(Exception):
            return str(importlib.import_module("flashinfer").__version__)
        return "unknown"


def folder(capability: tuple[int, int]) -> Path:
    """Where modules lie that were built ahead, for this FlashInfer and such a GPU."""
    return cache_dir() / "flashinfer" / f"{installed()}-sm{capability[0]}{capability[1]}"


def forms_of(backend: str) -> tuple[str, ...]:
    """The forms of attention that a back end takes, by its name."""
    _, _, form = backend.partition(":")
    if form == "paged-fa3":
        return "paged", form
    return (form,) if form else ("single", "paged")


@cache
def obstacle(dtype: torch.dtype, head_dim: int, capability: tuple[int, int]) -> str | None:
    """Why the modules can neither be compiled here nor are there already, in one line, or None."""
    lacking = toolchain.lack(hopper=capability[0] == HOPPER)
    try:
        found = modules(dtype, head_dim, capability, FORMS[:2])
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises when imported
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
        return f"it cannot be used as it is installed ({said}): make setup EXTRAS=dev,gpu"
    return lacking if lacking and not all(module.is_aot for module in found) else None


def library(capability: tuple[int, int]) -> Any:
    """The package, told where modules lie that were built ahead.

    The folder takes the place of one inside the package, which is looked at first for every module;
    it stays where it is while that one holds anything.
    """
    with contextlib.suppress(toolchain.Lacking):
        toolchain.prepare()
    # Only where no device tells: a machine that builds for another.
    if not torch.cuda.is_available():
        os.environ.setdefault("FLASHINFER_CUDA_ARCH_LIST", arch_of(capability))
    found = importlib.import_module("flashinfer")
    place: Any = importlib.import_module("flashinfer.jit.env")
    ours = folder(capability)
    own = Path(place.FLASHINFER_AOT_DIR)
    if own != ours and not any(own.glob("*/*.so")) and _carried(ours):
        place.FLASHINFER_AOT_DIR = ours
    return found


def arch_of(capability: tuple[int, int]) -> str:
    """A GPU's generation as nvcc is told it: ``9.0a`` for Hopper, with its own instructions."""
    major, minor = capability
    return f"{major}.{minor}{'a' if major >= HOPPER else ''}"


@cache
def _carried(place: Path) -> bool:
    """Whether a folder holds modules as they were built; loading a damaged one ends the process.

    Raises
    ------
    UserError : it holds others.
    """
    if not (place / MANIFEST).is_file():
        return False
    try:
        wanted = unseal(parse((place / MANIFEST).read_bytes()))["modules"]
        for name, digest in wanted.items():
            if digest_of(place / name / f"{name}.so") != digest:
                raise ValueError(f"{name} is not as it was built")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{place} holds damaged kernels ({error}): remove it, or build it again: "
            "kvfuse gpu-build"
        ) from error
    return True


def digest_of(path: Path) -> str:
    """64 hex over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def modules(
    dtype: torch.dtype, head_dim: int, capability: tuple[int, int], forms: Collection[str]
) -> list[Any]:
    """What the calls of :mod:`models.attention.flashinfer_rows` make the library load.

    Returns
    -------
    the library's specifications, by name, in the order in which they are needed.
    """
    library(capability)
    jit = importlib.import_module("flashinfer.jit")
    attention = importlib.import_module("flashinfer.jit.attention.modules")
    hopper = capability[0] == HOPPER
    common = dtype, dtype, dtype
    # no positions of its own, no window, no soft cap, no float16 sums
    rest = head_dim, head_dim, 0, False, False, False
    paged = torch.int32, *rest
    found = [
        jit.gen_single_prefill_module("fa2", *common, *rest),
        importlib.import_module("flashinfer.jit.quantization").gen_quantization_module(),
    ]
    if hopper:
        found.append(jit.gen_single_prefill_module("fa3", *common, *rest))
    if "paged" in forms:
        # Since 0.7.1 the fa2 wrapper loads a module for keys and values of equal strides alone.
        name = "_gen_batch_prefill_primary_module"
        make = getattr(attention, name, jit.gen_batch_prefill_module)
        found.append(make("fa2", *common, *paged))
        found.append(importlib.import_module("flashinfer.jit.cascade").gen_cascade_module())
    if "paged-fa3" in forms and hopper:
        found.append(jit.gen_batch_prefill_module("fa3", *common, *paged))
    return list({module.name: module for module in found}.values())


def ready(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> None:
    """See to it that nothing is left to compile when this back end is first called.

    Raises
    ------
    UserError : a module cannot be compiled.
    """
    if device.type != "cuda" or not backend.startswith("flashinfer"):
        return
    capability = torch.cuda.get_device_capability(device)
    with quiet():
        wanted = modules(dtype, head_dim, capability, forms_of(backend))
    compile_all([module for module in wanted if not module.is_aot])


def compile_all(wanted: Collection[Any], jobs: int | None = None) -> None:
    """Compile modules one after another, files of each side by side, where they are not up to date.

    Raises
    ------
    UserError : one fails; its compiler's output is kept in a file that is named.
    """
    new = [module for module in wanted if not Path(module.jit_library_path).exists()]
    if new:
        count = sum(len(module.sources) for module in new)
        print(
            f"compiling {len(new)} of FlashInfer's modules, {count} files, once; half a minute a "
            f"file on one core -> {Path(new[0].build_dir).parent}",
            file=sys.stderr,
            flush=True,
        )
    for module in wanted:
        compile_one(module, jobs or int(os.environ.get("MAX_JOBS", toolchain.jobs())))


def compile_one(module: Any, jobs: int) -> None:
    """Compile one module by the library's own rules; ninja does nothing where it is up to date."""
    try:
        toolchain.prepare()
    except toolchain.Lacking as reason:
        raise UserError(f"FlashInfer's kernels cannot be compiled here: {reason}") from reason
    with quiet():
        module.write_ninja()
    place = Path(module.build_dir)
    command = ["ninja", "-C", str(place), "-f", str(module.ninja_path), "-j", str(jobs)]
    said: list[str] = []
    environment = {**os.environ, "NINJA_STATUS": "[%f/%t] "}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
        tqdm(
            total=len(module.sources) + 1, desc=module.name[:40], unit="file", disable=None
        ) as bar,
    ):
        assert process.stdout is not None, "it was asked for"
        for line in process.stdout:
            said.append(line)
            if done := re.match(r"\[(\d+)/(\d+)\]", line):
                bar.total = int(done[2])
                bar.update(int(done[1]) - bar.n)
    if process.returncode:
        log = place / "build.log"
        log.write_text("".join(said), encoding="utf-8")
        wrong = next((line.strip() for line in said if "error" in line.lower()), "ninja failed")
        raise UserError(
            f"FlashInfer's module {module.name} cannot be compiled ({wrong[:160]}); see {log}; "
            "BACKEND=sdpa runs without"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's own remarks about building from the terminal: ours are there."""
    logger = logging.getLogger("flashinfer.jit")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def manifest(place: Path) -> dict[str, Any]:
    """What a folder of :func:`folder` holds, or an empty object where that cannot be told."""
    try:
        return unseal(json.loads((place / MANIFEST).read_text("utf-8")))
    except (OSError, ValueError):
        return {}
