"""A model before and after its weights are loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from models.attention.flashinfer_rows import obstacle
from models.attention.registry import choose_backend
from models.engine import Engine
from models.errors import UserError
from models.load import remembered
from models.load.remembered import Known
from models.load.settings import (
    check_supported,
    dtype_name,
    head_dim,
    max_positions,
    pick_device,
    pick_dtype,
)
from models.load.source import ModelSource, fetch, resolve
from models.load.tokenizer import fingerprint, load_tokenizer
from stage import environment
from stage.config import ModelConfig

if TYPE_CHECKING:
    from models.load.weights import LoadedModel


@dataclass(frozen=True)
class Unloaded:
    """A model whose weights are not loaded: where it is, its configuration, its tokenizer."""

    source: ModelSource
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def find(cls, model: str) -> Unloaded:
        """What ``MODEL=`` names; raises UserError for what cannot be had or is not supported."""
        source = resolve(model)
        tokenizer = load_tokenizer(source)
        config = fetch(source, AutoConfig.from_pretrained)
        check_supported(config)
        return cls(source, config, tokenizer)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return fingerprint(self.tokenizer)


class Weights:
    """A model's weights, loaded when something has to be computed with them, once.

    Where they will run is decided before; what identifies them is remembered from the last time.

    Attributes
    ----------
    device, dtype, backend : where and how the model runs.
    head_dim : the width of its attention heads.
    max_positions : tokens that its positions reach.
    layers : how many decoder layers it has.
    fast : switches of the engine that are on.

    Raises
    ------
    UserError : a device, dtype or back end that cannot be had.
    """

    def __init__(self, unloaded: Unloaded, config: ModelConfig) -> None:
        self._unloaded = unloaded
        self._where = config.device, config.dtype
        self.fast = sorted(config.fast)
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self._memo = unloaded.source, unloaded.config, (self.device, self.dtype)
        self.head_dim = head_dim(unloaded.config)
        self.backend = choose_backend(self.device, self.dtype, self.head_dim, config.backend)
        if config.backend == "auto" and self.device.type == "cuda" and self.backend == "sdpa":
            lack = obstacle(self.device, self.dtype, self.head_dim)
            print(f"attention by sdpa, several times slower: {lack}", file=sys.stderr, flush=True)
        self.max_positions = max_positions(unloaded.config)
        self.layers: int = unloaded.config.num_hidden_layers

    @cached_property
    def loaded(self) -> LoadedModel:
        from models.load.weights import load  # brings the library's models in: two seconds

        found = load(self._unloaded.source, self._unloaded.tokenizer, *self._where)
        known = Known(found.fingerprint, sorted(found.stop_ids), found.linear)
        if self.__dict__.setdefault("known", known) != known:
            remembered.forget(*self._memo)
            raise UserError(f"what was remembered of {found.name} no longer holds: run it again")
        remembered.keep(*self._memo, known)
        return found

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.loaded.model, self.backend, self.fast)

    @property
    def dtype_name(self) -> str:
        return dtype_name(self.dtype)

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What times depend on; the compiler is asked for its version, so it is found once."""
        return environment.machine(self.device, self.known.linear)

    @cached_property
    def known(self) -> Known:
        """What identifies the weights, and where generation stops."""
        found = remembered.recall(*self._memo)
        if found is None:
            model = self.loaded
            found = Known(model.fingerprint, sorted(model.stop_ids), model.linear)
        return found
