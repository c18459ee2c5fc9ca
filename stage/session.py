"""What the stages share: a model before and after its weights are loaded, and its inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from data import inputs
from data.dataset import Dataset
from data.inputs import Inputs, Item
from models.engine import Engine
from models.kv import store
from models.load.source import ModelSource, fetch, resolve
from models.load.tokenizer import fingerprint, load_tokenizer
from models.load.weights import LoadedModel, check_supported, load, pick_device, pick_dtype
from models.sealed import digest
from stage.config import InputsConfig, ModelConfig
from stage.options import defaults_of


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


@dataclass(frozen=True)
class Session:
    """A loaded model with the engine around it and one dataset's inputs."""

    unloaded: Unloaded
    loaded: LoadedModel
    engine: Engine
    dataset: Dataset
    inputs: Inputs
    config: ModelConfig

    @property
    def source(self) -> ModelSource:
        return self.unloaded.source

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.unloaded.tokenizer

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.unloaded.tokenizer_fingerprint

    def expected(self, item: Item) -> dict[str, Any]:
        """The meta that this item's KV files must have."""
        return store.describe(
            self.engine.modules,
            item.prompt,
            model=self.source.name,
            weights=self.loaded.fingerprint,
            tokenizer=self.tokenizer_fingerprint,
            chunking=self.inputs.chunk_meta,
        )

    @cached_property
    def kv_root(self) -> Path:
        """Where this dataset's KV files lie: by the dataset's name, where all else is default.

        Other chunks, prompts, generated rows and another dtype get a folder of their own, so that
        going from one setting to another and back rebuilds nothing.
        """
        chosen = changed(self.config) | self.inputs.meta.recipe.generation
        auto = pick_dtype("auto", pick_device(self.config.device))
        if self.loaded.dtype != auto:
            chosen["dtype"] = self.engine.modules.dtype_name
        suffix = f"-{digest(chosen)[:6]}" if chosen else ""
        return Path(self.config.kvs) / self.source.name / f"{self.dataset.name}{suffix}"

    def folder(self, item: Item) -> Path:
        """Where one item's KV files lie."""
        return self.kv_root / f"item_{item.id}"

    def precompute_command(self, scores: Sequence[str]) -> str:
        """What rebuilds these KV files and scores.

        All datasets are named as they were: a name of its own or an option that goes with another
        of them need not stand alone.
        """
        return self.config.command("precompute", **dict.fromkeys(scores, 1))


def changed(config: InputsConfig) -> dict[str, Any]:
    """The options that decide an item's tokens, chunks and id, as far as they are not default."""
    default = defaults_of(InputsConfig)
    names = (
        "chunking", "chunk_size", "max_length", "chat", "longbench_dir", "ruler_dir",
        "question", "documents", "prompt",
    )  # fmt: skip
    values = {name: getattr(config, name) for name in names}
    return {name: value for name, value in values.items() if value != default[name]}


Find = Callable[[Unloaded, Dataset, ModelConfig], Inputs]


def begin(config: ModelConfig, find: Find) -> Iterator[Session]:
    """A session for every dataset named; the model is loaded once, after all inputs are found.

    Of several datasets the inputs are read anew when their turn comes: together they may be large.

    Parameters
    ----------
    find : gets the inputs of one dataset: reads them, or builds what is missing.

    Raises
    ------
    UserError : the model cannot be had.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    unloaded = Unloaded.find(config.model)
    pending = []
    for dataset in config.datasets():
        found = find(unloaded, dataset, config)
        pending.append((dataset, found if len(config.datasets()) == 1 else None, found.recipe))
    loaded = load(unloaded.source, unloaded.tokenizer, config.device, config.dtype)
    engine = Engine(loaded.model, config.backend)
    for dataset, kept, recipe in pending:
        found = kept or inputs.read(inputs.item_path(config.inputs, recipe), recipe)
        if found.note:
            print(f"*** {found.note} ***", file=sys.stderr)
        yield Session(unloaded, loaded, engine, dataset, found, config)
