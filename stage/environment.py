"""Where and with what a result was obtained."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from models.attention import kernels, library, native
from models.attention.flashinfer_rows import obstacle
from models.load.settings import dtype_name
from models.processor import processor

ROOT = Path(__file__).resolve().parent.parent


# What times depend on, as :func:`machine` names it.
MACHINE = ("device", "threads", "torch", "transformers", "linear", "compiler", "flashinfer")


def machine(device: torch.device, linear: str) -> dict[str, Any]:
    """What must stay the same while one run's times are collected.

    Parameters
    ----------
    linear : the path that the model's linear layers take.
    """
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "linear": linear,
    }
    if device.type == "cpu":
        found["compiler"] = library.compiler()
    if device.type == "cuda" and find_spec("flashinfer"):
        found["flashinfer"] = kernels.installed()
    return found


def describe(
    machine: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    head_dim: int | None = None,
) -> dict[str, Any]:
    """Everything about the machine and the software that helps to explain a figure.

    Parameters
    ----------
    machine : what :func:`machine` found.
    head_dim : the model's; None where no other back end could have run, so that none is lacking.
    """
    return {
        **machine,
        "backend": backend,
        **(_lacks(device, dtype, backend, head_dim) if head_dim else {}),
        "dtype": dtype_name(dtype),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "kvfuse": revision(),
        "command": [Path(sys.argv[0]).parent.name, *sys.argv[1:]],
    }


def _lacks(device: torch.device, dtype: torch.dtype, backend: str, head_dim: int) -> dict[str, str]:
    """Why a device does without the kernels that are meant for it, where it does."""
    asked = f"BACKEND={backend} was asked for"
    if device.type == "cpu" and backend != "native":
        return {"not_native": native.obstacle(dtype, head_dim) or asked}
    if device.type == "cuda" and not backend.startswith("flashinfer"):
        return {"not_flashinfer": obstacle(device, dtype, head_dim) or asked}
    return {}


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


def memory(
    model: torch.nn.Module, device: torch.device, kv_bytes: int, observes: bool, answers: int
) -> dict[str, float]:
    """Peak memory beside what it is made of.

    ``allowed`` is weights + 1.5 KV + the KVs of answers that waited + 1 GiB.

    Parameters
    ----------
    kv_bytes : KV bytes of the largest item.
    observes : the full prefill's KVs were kept beside them, which is one KV more.
    answers : most bytes that were held for answers decoded side by side.
    """
    weights = sum(p.nbytes for p in model.parameters())
    cuda = device.type == "cuda"
    return {
        "peak": torch.cuda.max_memory_allocated(device) / 1e6 if cuda else peak_mb(),
        "weights": weights / 1e6,
        "kv": kv_bytes / 1e6,
        "answers": answers / 1e6,
        "allowed": (weights + (1.5 + observes) * kv_bytes + answers + (1 << 30)) / 1e6,
    }
