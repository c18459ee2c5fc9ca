"""llama.cpp's prefill of the same model's GGUF file, where ``llama-cpp-python`` is installed."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.load.source import gguf_file

PACKAGE = "llama-cpp-python"
REMEDY = "make setup EXTRAS=dev,bench"
SPARE_POSITIONS = 8


class LlamaCpp:
    """One GGUF file, loaded for one prompt length at a time.

    Its weights stay quantised and its KVs are float16, as it runs by default: a yardstick for the
    machine, not the same arithmetic. It always runs on the CPU.
    """

    def __init__(self, module: Any, path: Path, threads: int) -> None:
        self.module = module
        self.path = path
        self.threads = threads
        self._model: Any = None
        self._room = 0

    @classmethod
    def find(cls, model: str, threads: int) -> tuple[LlamaCpp | None, str]:
        """llama.cpp for what ``MODEL=`` names, and what it is; or None, and why.

        Parameters
        ----------
        threads : CPU threads, as many as PyTorch uses.
        """
        path = gguf_file(model)
        if path is None:
            return None, f"llama.cpp: not measured, {model} is no GGUF file"
        if importlib.util.find_spec("llama_cpp") is None:
            return None, f"llama.cpp: not installed; it is measured too after {REMEDY}"
        try:
            module = importlib.import_module("llama_cpp")
        except (ImportError, OSError, RuntimeError) as error:  # its compiled library, mostly
            reason = str(error).splitlines()[0]
            return None, f"llama.cpp: {PACKAGE} is installed and does not load ({reason})"
        note = f"llama.cpp: {PACKAGE} {module.__version__}, {path.name}, quantised as it is"
        return cls(module, path, threads), note

    def prefill_ms(self, ids: Sequence[int]) -> float:
        """Milliseconds from token ids to the first token's id; the model is loaded before."""
        if self._room != len(ids):
            self._load(len(ids))
        model = self._model
        model.reset()
        start = time.perf_counter()
        model.eval(list(ids))
        self.first_token(model)
        return (time.perf_counter() - start) * 1e3

    def first_token(self, model: Any) -> int:
        """The most likely token after what was evaluated."""
        logits = self.module.llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

    def _load(self, room: int) -> None:
        self.close()
        self._model = self.module.Llama(
            model_path=str(self.path),
            n_ctx=room + SPARE_POSITIONS,
            n_threads=self.threads,
            n_threads_batch=self.threads,
            n_gpu_layers=0,
            verbose=False,
        )
        self._room = room

    def close(self) -> None:
        """Let go of weights and cache, so that they are not in another contestant's memory."""
        if self._model is not None:
            self._model.close()
            self._model, self._room = None, 0
