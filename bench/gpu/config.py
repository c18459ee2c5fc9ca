"""What ``make gpu-check`` can be asked for, and whether this machine can do it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from bench.config import Method
from bench.gpu import random_models
from models.attention import equivalence
from models.attention.registry import BACKENDS, choose_backend
from models.errors import UserError
from models.tuning import SWITCHES
from stage.options import option

PARTS = ("gates", "equivalence", "attention", "yardsticks", "prefill", "switches")


@dataclass
class GpuCheckConfig:
    """Prove and measure the CUDA path."""

    device: str = option("cuda", "cuda, or cpu to try the flow")
    parts: list[str] = option(list(PARTS), f"what to do: {', '.join(PARTS)}")
    dtypes: list[str] = option(["bfloat16", "float16"], "dtypes to prove; the first is timed")
    head_dims: list[int] = option([64, 128], "widths of heads to prove")
    shape: str = option("llama-3-8b", f"model to time: {', '.join(random_models.SHAPES)}")
    layers: int | None = option(None, "layers of the model to time (all)")
    tokens: list[int] = option([8192, 4096], "prompt lengths to time")
    methods: list[str] = option(
        ["debug", "random", "blend"],
        "methods to time, spelled as in REUSE; NAME@N only at lengths up to N",
    )
    rate: float = option(0.15, "share of document positions that is recomputed")
    chunk_size: int = option(512, "tokens of a chunk")
    rounds: int = option(7, "interleaved rounds after the warm-up")
    backend: str = option("auto", f"back end of gates and prefills: auto, {', '.join(BACKENDS)}")
    backends: list[str] = option(
        list(equivalence.BACKENDS), "FlashInfer's back ends to prove and to time by themselves"
    )
    fast: list[str] = option([], f"switches of the timed engine: {', '.join(SWITCHES)}")
    outputs: str = option("outputs", "folder of the results")

    def __post_init__(self) -> None:
        choices = {
            "parts": PARTS,
            "shape": tuple(random_models.SHAPES),
            "backend": ("auto", *BACKENDS),
            "backends": tuple(name for name in BACKENDS if name.startswith("flashinfer")),
            "dtypes": ("bfloat16", "float16", "float32"),
            "device": ("cuda", "cpu"),
            "fast": tuple(SWITCHES),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            for one in [value] if isinstance(value, str) else value:
                if one not in known:
                    raise UserError(f"--{name} {one} is none of {', '.join(known)}")
        least = {"rounds": 1, "chunk_size": 1, "layers": 1, "tokens": 256, "head_dims": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            for one in value if isinstance(value, list) else [value]:
                if one is not None and one < smallest:
                    raise UserError(f"--{name.replace('_', '-')} {one}: give {smallest} or more")
        if not 0 <= self.rate <= 1:
            raise UserError(f"--rate {self.rate} is not a share: give 0 to 1")
        if not self.outputs:
            raise UserError("--outputs names no folder; leave it out for outputs/")
        self.methods_at(max(self.tokens))

    def methods_at(self, n: int) -> list[Method]:
        """The methods that are timed at ``n`` tokens, in the order given."""
        timed = map(Method.parse, self.methods)
        return list(dict.fromkeys(Method(m.spec) for m in timed if m.runs_at(n)))


def require_gpu(config: GpuCheckConfig) -> torch.device:
    """The device of the run.

    Raises
    ------
    UserError : there is no CUDA device, or a back end that was asked for cannot run on it.
    """
    device, wanted = torch.device(config.device), [config.backend]
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("no CUDA device here; run it where there is one, or use --device cpu")
        device = torch.device("cuda", torch.cuda.current_device())
        wanted = [*config.backends, config.backend]
    widths = {*config.head_dims, random_models.heads(config.shape)[2]}
    for name, head_dim, backend in product(config.dtypes, widths, wanted):
        choose_backend(device, getattr(torch, name), head_dim, backend)
    return device
