"""Where and with what a result was obtained."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from models.attention import library, native
from models.engine import Engine
from models.load.weights import LoadedModel

ROOT = Path(__file__).resolve().parent.parent


def machine(device: torch.device) -> dict[str, Any]:
    """What must stay the same while one run's times are collected."""
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    if device.type == "cpu":
        found["compiler"] = library.compiler()
    if device.type == "cuda" and find_spec("flashinfer"):
        found["flashinfer"] = version("flashinfer-python")
    return found


def describe(loaded: LoadedModel, engine: Engine) -> dict[str, Any]:
    """Everything about the machine and the software that helps to explain a figure."""
    return {
        **machine(loaded.device),
        "backend": engine.backend,
        **_lacks(engine),
        "dtype": engine.modules.dtype_name,
        "device_type": loaded.device.type,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "kvfuse": revision(),
        "command": [Path(sys.argv[0]).parent.name, *sys.argv[1:]],
    }


def _lacks(engine: Engine) -> dict[str, str]:
    """Why a CPU does without the kernel that is written for it, where it does."""
    if engine.device.type != "cpu" or engine.backend == "native":
        return {}
    reason = native.obstacle(engine.modules.dtype, engine.modules.head_dim)
    return {"not_native": reason or f"BACKEND={engine.backend} was asked for"}


def processor() -> str:
    """The CPU's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


@cache
def code() -> str:
    """12 hex over the engine's source files: what a gate was passed with."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "models").rglob("*")):
        if path.suffix in (".py", ".cpp", ".h"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def revision() -> str:
    """The commit of this checkout, with a mark where it was changed since; or ``unknown``."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def peak_mb() -> float:
    """The process's largest resident memory so far, file pages included, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def memory(loaded: LoadedModel, kv_bytes: int, observes: bool) -> dict[str, float]:
    """Peak memory beside what it is made of; ``allowed`` is weights + 1.5 KV + 1 GiB.

    Parameters
    ----------
    kv_bytes : KV bytes of the largest item.
    observes : the full prefill's KVs were kept beside them, which is one KV more.
    """
    weights = sum(p.nbytes for p in loaded.model.parameters())
    device = loaded.device
    cuda = device.type == "cuda"
    return {
        "peak": torch.cuda.max_memory_allocated(device) / 1e6 if cuda else peak_mb(),
        "weights": weights / 1e6,
        "kv": kv_bytes / 1e6,
        "allowed": (weights + (1.5 + observes) * kv_bytes + (1 << 30)) / 1e6,
    }
