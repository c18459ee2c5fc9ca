"""llama.cpp's prefill of the same model's GGUF file, where ``llama-cpp-python`` is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import LlamaFileType

from models.source import alias_table

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
        found = cls(module, path, threads)
        version = importlib.metadata.version(PACKAGE)
        return found, f"llama.cpp: {PACKAGE} {version}, {path.name} as {found.quantisation()}"

    def quantisation(self) -> str:
        """How the file says that its weights are stored, such as ``Q4_K_M``."""
        model = self.module.Llama(model_path=str(self.path), vocab_only=True, verbose=False)
        try:
            kind = int(model.metadata.get("general.file_type", -1))
            return LlamaFileType(kind).name.removeprefix("MOSTLY_")
        except ValueError:
            return "unknown quantisation"
        finally:
            model.close()

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


def gguf_file(model: str) -> Path | None:
    """The GGUF file behind ``MODEL=``: a path to one, or the one in an alias's package."""
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        return path if path.is_file() else None
    origin = alias_table()[model].origin if model in alias_table() else ""
    kind, _, package = origin.partition(" ")
    if kind != "pack":
        return None
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in found if path.is_file()), None)
