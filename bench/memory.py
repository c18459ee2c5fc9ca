"""Peak memory of one run, not of all runs since the process began."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.heap import give_back

RESET_PEAK = "5"  # what proc_pid_clear_refs(5) says resets VmHWM to the memory now in use
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_of(run: Callable[[], Any], device: torch.device) -> float | None:
    """Call ``run`` and give the most memory that was in use meanwhile, in MB of 10^6 bytes.

    On CUDA what PyTorch allocated; else the process's resident memory, weights and pages of mapped
    files included. None where the system cannot start its count of the peak anew.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 1e6
    give_back()  # or the last contestant's freed memory would count as this one's
    known = _reset()
    run()
    return _peak_mb() if known else None


def _reset() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def _peak_mb() -> float | None:
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    return int(found[1]) * 1024 / 1e6 if found else None
