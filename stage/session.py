"""What precompute and eval both begin with: a model, its tokenizer, and inputs that fit it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from data import datasets, inputs
from data.datasets import Dataset
from data.inputs import Inputs, Item
from models.engine import Engine
from models.errors import UserError
from models.kv import store
from models.load.source import ModelSource, resolve
from models.load.tokenizer import fingerprint, load_tokenizer
from models.load.weights import LoadedModel, load
from stage.options import StageConfig, option


@dataclass
class ModelConfig(StageConfig):
    """Options of the stages that run the model."""

    device: str = option("auto", "auto, cpu, cuda or mps")
    dtype: str = option("auto", "auto (float32 on CPU, else bfloat16), float32, bfloat16, float16")
    backend: str = option(
        "auto", "attention back end: auto, blocked, sdpa, flashinfer[:single|:paged]"
    )
    threads: int | None = option(None, "CPU threads; PyTorch's choice by default")

    def __post_init__(self) -> None:
        super().__post_init__()
        cores = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise UserError(f"THREADS={self.threads}: give 1 to {cores}, the cores of this machine")


@dataclass
class Session:
    """A loaded model with the engine around it and one dataset's inputs."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    tokenizer_fingerprint: str
    loaded: LoadedModel
    engine: Engine
    dataset: Dataset
    inputs: Inputs
    config: ModelConfig

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

    def folder(self, item: Item) -> Path:
        """Where one item's KV files lie."""
        return store.item_folder(self.config.kvs, self.source.name, self.dataset.name, item.id)

    @property
    def precompute_command(self) -> str:
        """What rebuilds this dataset's KV files."""
        config = self.config
        extra = "".join(
            f" {name.upper()}={value}"
            for name, value in (
                ("dtype", config.dtype),
                ("kvs", config.kvs),
                ("inputs", config.inputs),
            )
            if value not in ("auto", name)
        )
        return f"make precompute MODEL={config.model} DATASET={self.dataset.name}{extra}"


def begin(config: ModelConfig) -> Iterator[Session]:
    """Load the model once and yield a session for every dataset named.

    All inputs are looked for before the model is loaded; each is read when its turn comes.

    Raises
    ------
    UserError : unknown model or dataset; inputs missing, made for another tokenizer, or longer than
        the model can hold.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    source = resolve(config.model)
    chosen = datasets.expand(config.dataset)
    tokenizer = load_tokenizer(source)
    tokenizer_fingerprint = fingerprint(tokenizer)
    for dataset in chosen:
        path, remedy = _inputs_of(config, source, dataset)
        meta = inputs.read_meta(path)
        if meta is None:
            raise UserError(f"{path} or its sidecar is missing or damaged; build it: {remedy}")
        if meta["tokenizer"] != tokenizer_fingerprint:
            raise UserError(f"{path} was made with another tokenizer; rebuild it: {remedy}")
    loaded = load(source, tokenizer, config.device, config.dtype)
    engine = Engine(loaded.model, config.backend)
    for dataset in chosen:
        path, remedy = _inputs_of(config, source, dataset)
        found = inputs.read(path, remedy, config.limit)
        if found.note:
            print(f"*** {found.note} ***", file=sys.stderr)
        for item in found.items:
            if len(item.prompt) > loaded.max_positions:
                raise UserError(
                    f"item {item.id} has {len(item.prompt)} tokens and {config.model} holds "
                    f"{loaded.max_positions}; rebuild the inputs: {remedy}"
                )
        yield Session(
            source, tokenizer, tokenizer_fingerprint, loaded, engine, dataset, found, config
        )


def _inputs_of(config: ModelConfig, source: ModelSource, dataset: Dataset) -> tuple[Path, str]:
    """Where a dataset's inputs lie, and the command that builds them."""
    path = inputs.item_path(config.inputs, source.name, dataset.name)
    return path, f"make chunk MODEL={config.model} DATASET={dataset.name}"
