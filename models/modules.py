"""A loaded decoder as the engine drives it: its family's parts, its sizes, device and dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.attention import kernels
from models.attention.registry import choose_backend, install
from models.family import FAMILIES
from models.kv import rotary
from models.load.settings import dtype_name


class Modules:
    """A model taken apart by its family's adapter, its layers used exactly as the library has them.

    Holds no weights of its own. Making one routes the model's attention through the engine's back
    ends (:func:`models.attention.registry.install`), so the model's own ``forward`` no longer works
    on it.

    Attributes
    ----------
    backend : what attends, in everything that is run on these modules.
    plans : attention of scattered rows is planned before their first layer, see `models.tuning`.
    tile : rows that are chosen fill whole tiles of so many with the question's; 1: as they come.

    Raises
    ------
    UserError : there is no such back end, or not here, or what it needs cannot be compiled.
    """

    def __init__(self, model: Any, backend: str = "auto") -> None:
        install(model)
        self.model = model
        self.config = model.config
        self.plans = False
        self.tile = 1
        self.family = family = FAMILIES[model.config.model_type](model)
        self.layers: Any = family.layers
        self.embed: nn.Module = family.embed
        self.rotary: nn.Module = family.rotary
        self.logits = family.logits
        self.project = family.project
        weight: torch.Tensor = family.embed.weight  # type: ignore[assignment]
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.n_heads: int = family.n_heads
        self.n_kv_heads: int = family.n_kv_heads
        self.head_dim: int = family.head_dim
        self.scale: float = family.scale
        self.backend = choose_backend(self.device, self.dtype, self.head_dim, backend)
        kernels.ready(self.device, self.dtype, self.head_dim, self.backend)
        if self.device.type == "cpu":
            rotary.lacking()  # what is to be compiled is compiled now, not inside a clock

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """``(L, H_kv, D)``."""
        return len(self.layers), self.n_kv_heads, self.head_dim

    def kv_shape(self, tokens: int) -> tuple[int, int, int, int, int]:
        """``[2, L, H_kv, N, D]`` of the keys and values of ``N`` tokens."""
        n_layers, n_heads, head_dim = self.cache_shape
        return 2, n_layers, n_heads, tokens, head_dim

    @property
    def dtype_name(self) -> str:
        """``float32``, ``bfloat16`` or ``float16``, as options and files spell it."""
        return dtype_name(self.dtype)
