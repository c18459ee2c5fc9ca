"""``make doctor``: what this machine has and lacks, each lack with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from data import datasets
from data.packs import pack_file
from data.sources.longbench import files, hub
from models.attention import kernels, native, toolchain
from models.attention.flashinfer_rows import obstacle
from models.attention.registry import choose_backend
from models.errors import UserError
from models.family import FAMILIES
from models.linear.layers import LIBRARY, prospect
from models.load.settings import dtype_name, pick_device, pick_dtype
from models.load.source import alias_table, cache_dir, hub_trouble
from models.paths import user_path
from stage.options import command, option

GIB = 1 << 30
HEAD_DIM = 128  # of a usual model


@dataclass
class DoctorConfig:
    """Look at this machine: what is here, and what is lacking."""

    inputs: str = option("inputs", "folder of stage 1's results")
    kvs: str = option("kvs", "folder of stage 2's results")
    outputs: str = option("outputs", "folder of stage 3's results")
    longbench_dir: str | None = option(None, "folder with LongBench's files, to be looked through")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do about it.

    ``hint`` opens up more; ``remedy`` mends what does not work here, which is a lack.
    """

    what: str
    found: str
    remedy: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        line = f"{'! ' if self.remedy else '  '}{self.what:<14} {self.found}"
        advice = self.remedy or self.hint
        return f"{line}\n  {'':<14} -> {advice}" if advice else line


def main(config: DoctorConfig) -> None:
    """Print every finding; lacks are marked, and none is an error."""
    online = hub_trouble("HuggingFaceTB/SmolLM2-135M-Instruct") is None
    findings = [*software(), *hardware(config), *models(online), *data(config, online)]
    print("\n".join(map(str, findings)))
    lacks = sum(finding.remedy is not None for finding in findings)
    print(f"\n{lacks} lack{'s' * (lacks != 1)}, marked with !" if lacks else "\nnothing is lacking")


def software() -> Iterator[Finding]:
    """Python and the libraries that results depend on."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield Finding("transformers", f"{version('transformers')}; runs {', '.join(FAMILIES)}")


def hardware(config: DoctorConfig) -> Iterator[Finding]:
    """Device, attention kernels, memory and disk."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    yield Finding("device", f"{device.type} ({name}), {dtype_name(dtype)} by default")
    if device.type == "cuda":
        lack = obstacle(device, dtype, HEAD_DIM)
        yield Finding(
            "flashinfer",
            "not used, attention by sdpa instead, several times slower" if lack else _flashinfer(),
            lack,
        )
    else:
        yield Finding("flashinfer", f"not used: it serves CUDA devices only{_builds()}")
        yield _native(device, dtype)
    path = prospect(dtype) if device.type == "cpu" else f"{LIBRARY}: others serve CPUs only"
    yield Finding("linear layers", path)
    free = psutil.virtual_memory().available
    low = "close other programs, or use a smaller model" if free < 4 * GIB else None
    yield Finding("memory", f"{free / GIB:.1f} GiB free of {_total():.1f}", low)
    for folder in (config.inputs, config.kvs, config.outputs):
        yield _disk(folder)


def models(online: bool) -> Iterator[Finding]:
    """Aliases that can be loaded at once, and whether the hub can serve the others."""
    table = alias_table()
    here = [alias for alias, info in table.items() if info.present]
    yield Finding(
        "models here", ", ".join(here) or "none", None if here else "make setup brings smollm2-135m"
    )
    others = ", ".join(alias for alias in table if alias not in here)
    if online:
        yield Finding("hub", f"reachable; fetched from it when first used: {others}")
    else:
        hint = f"go online for {others}; or MODEL= a local folder or .gguf file"
        yield Finding("hub", "not reachable", hint=hint)
    yield Finding("model cache", str(cache_dir()))


def data(config: DoctorConfig, online: bool) -> Iterator[Finding]:
    """Where each dataset's rows would come from, and which inputs are there."""
    try:
        size = pack_file("hotpotqa.json").stat().st_size
        yield Finding("data pack", f"HotpotQA, {size / 1e6:.0f} MB")
    except UserError as error:
        yield Finding("data pack", "missing", str(error))
    yield longbench_rows(config.longbench_dir, online)
    made = sorted(map(str, Path(config.inputs).glob("*/*.jsonl")))
    yield Finding("inputs made", ", ".join(made) or "none yet")


def longbench_rows(folder: str | None, online: bool) -> Finding:
    """Where LongBench's rows would be read from now."""
    hint = "set LONGBENCH_DIR= to a folder with LongBench's jsonl files, or go online"
    if folder:
        lacking = []
        for dataset in datasets.expand("all"):
            if dataset.source == "longbench":
                try:
                    place = user_path(folder, "LONGBENCH_DIR=")
                    files.read(files.find(place, dataset.name), dataset.name)
                except UserError:
                    lacking.append(dataset.name)
        lack = f"not to be read from it: {', '.join(lacking)}" if lacking else None
        return Finding("longbench", f"LONGBENCH_DIR={folder}", lack)
    if cached := hub.cached_zip():
        return Finding("longbench", f"the hub's {cached[0]}, cached")
    if online:
        return Finding("longbench", "the hub, fetched when first used")
    return Finding("longbench", "only the built-in samples, which are not the benchmark", hint=hint)


def _disk(folder: str) -> Finding:
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Finding(f"{folder}/", "not writable", "name another folder: INPUTS=, KVS=, OUTPUTS=")
    low = "a thousand tokens of KV take 50 MB to 1 GB; name a larger disk with KVS="
    return Finding(f"{folder}/", f"{free / GIB:.1f} GiB free", low if free < 5 * GIB else None)


def _native(device: torch.device, dtype: torch.dtype) -> Finding:
    lack = native.obstacle(dtype, HEAD_DIM)
    if lack is None:
        return Finding("native", "attention by a kernel compiled for this CPU")
    other = choose_backend(device, dtype, HEAD_DIM)
    return Finding("native", f"not used, attention by {other} instead, several times slower", lack)


def _flashinfer() -> str:
    device = torch.device("cuda", torch.cuda.current_device())
    place = kernels.folder(torch.cuda.get_device_capability(device))
    ahead = f", kernels built ahead in {place}" if kernels.manifest(place) else ""
    return f"{kernels.installed()}{ahead}"


def _builds() -> str:
    """Whether a machine without a GPU can compile for one."""
    lacking = find_spec("flashinfer") is None or toolchain.lack() is not None
    return "" if lacking else f"; kvfuse gpu-build compiles for them (nvcc {toolchain.nvcc()[1]})"


def _total() -> float:
    return psutil.virtual_memory().total / GIB


if __name__ == "__main__":
    sys.exit(command("doctor", DoctorConfig, main))
