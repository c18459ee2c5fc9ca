"""The test stand: one model, loaded once, for every measurement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from bench.config import BenchConfig
from bench.library import Library
from bench.llamacpp import LlamaCpp
from models.engine import Engine
from models.load.source import resolve
from models.load.tokenizer import frame, load_tokenizer
from models.load.weights import LoadedModel, load


@dataclass
class Stand:
    """What all measurements share.

    Attributes
    ----------
    sink : tokens put in front of a chunk that is captured alone.
    llama : llama.cpp over the same model's GGUF file; None where it cannot run.
    llama_note : what llama.cpp runs, or why it does not.
    """

    config: BenchConfig
    tokenizer: PreTrainedTokenizerBase
    loaded: LoadedModel
    library: Library
    sink: list[int]
    llama: LlamaCpp | None
    llama_note: str

    @classmethod
    def build(cls, config: BenchConfig) -> Stand:
        """Load what ``config`` names.

        Raises
        ------
        UserError : no such model, or it does not hold the longest prompt.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        source = resolve(config.model)
        tokenizer = load_tokenizer(source)
        loaded = load(source, tokenizer, config.device, config.dtype)
        config.check_room(loaded.max_positions)
        device = loaded.device
        sink = frame(tokenizer, loaded.model.config, chat=False).sink
        llama, note = None, f"llama.cpp: not measured, it would run on the CPU beside {device.type}"
        if device.type == "cpu":
            llama, note = LlamaCpp.find(config.model, torch.get_num_threads())
        library = Library(loaded.model, device)
        return cls(config, tokenizer, loaded, library, sink, llama, note)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.loaded.device

    def engine(self) -> Engine:
        """An engine whose cache is still empty: another prompt's would count as memory in use."""
        return Engine(self.loaded.model, self.config.backend)
