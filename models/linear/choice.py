"""Whether packing pays for a layer of some shape: measured once on a machine, then remembered."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor, nn

from models.atomic import writing
from models.errors import UserError
from models.linear.packed import PackedLinear
from models.load.settings import dtype_name
from models.load.source import cache_dir
from models.processor import processor
from models.sealed import digest, parse, seal, unseal

VERSION = 1  # of the measurement: another one, other choices
FEW = (1, 8)  # rows of a decoding step, and of several answers' together
MANY = (256,)  # rows of a prefill
ROUNDS = 7
GAIN = 1.05  # what packing must be faster by: a layer that gains nothing stays the library's
_BEYOND_CACHE = 48 << 20  # bytes of one layer's copies, where it is smaller


class Choices:
    """What was found on this machine, with this PyTorch and this number of threads.

    Lies in ``<cache>/linear/``, sealed; a file that is damaged or not of this machine is measured
    anew. Where the folder cannot be written nothing is remembered. Choices are the same in
    every run that finds the file, whatever the machine was busy with when it was made.

    Attributes
    ----------
    shapes : ``"float32 576x1536"`` → ``{"packed": bool, "few": ..., "many": ...}``; the numbers
        are how many times faster the packed layer was.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.machine = {
            "version": VERSION,
            "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
        }
        folder = cache_dir() / "linear" if folder is None else folder
        self.path = folder / f"{digest(self.machine)[:12]}.json"
        self.shapes: dict[str, dict[str, Any]] = self._read()

    def __call__(self, linear: nn.Linear, packed: PackedLinear) -> bool:
        """Whether the packed layer is to take the other's place, measured if not known."""
        dtype = dtype_name(linear.weight.dtype)
        name = f"{dtype} {linear.in_features}x{linear.out_features}"
        if name not in self.shapes:
            few, many = speedups(linear, packed)
            won = math.sqrt(few * many) > GAIN
            found = {"packed": won, "few": round(few, 3), "many": round(many, 3)}
            # What another process found meanwhile holds for this one too.
            self.shapes |= {name: found} | self._read()
            self._write()
        return bool(self.shapes[name]["packed"])

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = unseal(parse(self.path.read_bytes()))
        except (OSError, ValueError):
            return {}
        return dict(content["shapes"]) if content.get("machine") == self.machine else {}

    def _write(self) -> None:
        content = seal({"machine": self.machine, "shapes": self.shapes})
        # A cache that cannot be written stops nobody.
        with contextlib.suppress(UserError), writing(self.path) as file:
            file.write(json.dumps(content, indent=1).encode())


@torch.inference_mode()
def speedups(linear: nn.Linear, packed: PackedLinear) -> tuple[float, float]:
    """How many times faster the packed layer is for few and for many rows (geometric means).

    Few rows meet one copy of the layer after the other, as a decoding step meets one layer of the
    model after the other: no weight lies in a cache when its turn comes.
    """
    copies = range(max(1, _BEYOND_CACHE // linear.weight.nbytes) - 1)
    plain = [linear, *(deepcopy(linear) for _ in copies)]
    ours = [packed, *(PackedLinear(linear) for _ in copies)]
    few = [_ratio(plain, ours, rows) for rows in FEW]
    many = [_ratio(plain[:1], ours[:1], rows) for rows in MANY]
    return geometric_mean(few), geometric_mean(many)


def _ratio(plain: Sequence[nn.Module], ours: Sequence[nn.Module], rows: int) -> float:
    """Time of one path over that of the other, each the fastest of rounds that alternate."""
    weight: Tensor = plain[0].weight  # type: ignore[assignment]
    hidden = torch.zeros(rows, weight.shape[1], dtype=weight.dtype)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for layers, taken in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            for layer in layers:
                layer(hidden)
            taken.append(time.perf_counter() - start)
    return min(times[0]) / min(times[1])
