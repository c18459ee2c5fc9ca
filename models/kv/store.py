"""kvs.pt, surprisal.pt, sinks.pt: one item on disk, complete or absent, never of something else.

A file is a dict with a tensor and a ``meta`` dict, readable with
``torch.load(path, mmap=True, weights_only=True)``.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from models.atomic import writing
from models.errors import UserError
from models.kv.capture import Captured
from models.kv.pagecache import resident_share
from models.kv.transfer import LayerStream
from models.modules import Modules
from models.prompt import Prompt
from models.timing import Stopwatch

FORMAT_VERSION = 1
KVS = "kvs.pt"
SCORES = ("surprisal", "sinks")
DROPPED = 0.01  # a file is out of memory when less than this share of it is there
UNCHECKED = ("libraries", "model")


def describe(
    modules: Modules,
    prompt: Prompt,
    *,
    model: str,
    weights: str,
    tokenizer: str,
    chunking: dict[str, Any],
) -> dict[str, Any]:
    """The meta of one item's files: what they were made from, and so what they are good for.

    Parameters
    ----------
    model : name of the model, for people; ``weights`` and ``tokenizer`` are the fingerprints.
    chunking : settings that split the documents.
    """
    rope = modules.config.rope_parameters or {}
    return {
        "format": FORMAT_VERSION,
        "model": model,
        "weights": weights,
        "tokenizer": tokenizer,
        "dtype": modules.dtype_name,
        "rope": {key: rope[key] for key in sorted(rope)},
        "chunking": dict(chunking),
        "shape": list(modules.kv_shape(len(prompt))),
        "spans": [list(span) for span in prompt.segments],
        "tokens": prompt.sha256(),
        "libraries": {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def write(folder: Path, captured: Captured, meta: dict[str, Any]) -> int:
    """Write an item's files, each to a temporary name, flushed, then renamed.

    ``kvs.pt`` comes last: where it exists, what was asked for together with it exists too.

    Returns
    -------
    bytes written.

    Raises
    ------
    UserError : the folder cannot be written or the disk is full.
    """
    size = 0
    for name, scores in captured.scores.items():
        content = {"scores": scores, "chunk_ranges": meta["spans"][1:-1], "meta": meta}
        size += _write_one(folder / f"{name}.pt", content)
    return size + _write_one(folder / KVS, {"kv": captured.kv.cpu(), "meta": meta})


def _write_one(path: Path, content: dict[str, Any]) -> int:
    with writing(path) as file:
        torch.save(content, file)
    return path.stat().st_size


def read(path: Path, expected: dict[str, Any], remedy: str, tensor: str) -> Tensor:
    """Map one file and check that it is what the run expects.

    Parameters
    ----------
    expected : from :func:`describe`; every field but names and library versions must be equal.
    remedy : the command that rebuilds the file, for the error message.
    tensor : ``"kv"`` or ``"scores"``.

    Returns
    -------
    The tensor, backed by the file: nothing is read until it is used.

    Raises
    ------
    UserError : missing, damaged, or made from something else; the field and both values are named.
    """
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        if not isinstance(content, dict):
            raise TypeError("no dict")
        meta = dict(content["meta"])
        result = content[tensor]
        shape = meta["shape"] if tensor == "kv" else meta["shape"][3:4]
        if list(result.shape) != shape:
            raise ValueError(f"shape {list(result.shape)}, its meta says {shape}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; build it: {remedy}") from None
    except PermissionError:
        raise UserError(f"{path} may not be read; check its permissions") from None
    except Exception as error:  # noqa: BLE001 - whatever unpickling damaged bytes may raise
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); rebuild it: {remedy}"
        ) from None
    difference = mismatch(meta, expected)
    if difference:
        raise UserError(f"{path} does not fit this run: {difference}; rebuild it: {remedy}")
    return result


def is_complete(folder: Path, expected: dict[str, Any], scores: Collection[str] = ()) -> bool:
    """Whether an item's files exist, can be read and are what ``expected`` says."""
    try:
        read(folder / KVS, expected, "", "kv")
        for name in scores:
            read(folder / f"{name}.pt", expected, "", "scores")
    except UserError:
        return False
    return True


def mismatch(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first differing field with both values, or None. Nested settings are named with a dot."""
    for key, wanted in expected.items():
        if key in UNCHECKED:
            continue
        got = found.get(key)
        if isinstance(wanted, dict) and isinstance(got, dict):
            inner = mismatch(got, wanted)
            if inner:
                return f"{key}.{inner}"
        elif got != wanted:
            return f"{key} is {_short(got)} in the file, the run expects {_short(wanted)}"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass
class StoredItem:
    """Reads one item's KVs into the engine's cache, cold (from disk) or ready (from memory).

    ``cold`` maps the file anew after asking the system to forget its pages; ``ready`` copies from
    memory that already holds it: the pages of the mapping, or pinned memory for a GPU. Scores are
    read when they are first asked for, and remembered until :meth:`forget`.
    """

    folder: Path
    expected: dict[str, Any]
    remedy: str
    _memory: Tensor | None = field(default=None, repr=False)
    _scores: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def check(self, scores: Collection[str] = ()) -> None:
        """Raise what reading the KVs and these scores would raise, without reading the KVs."""
        read(self.folder / KVS, self.expected, self.remedy, "kv")
        for name in scores:
            self._read_scores(name)

    def scores(self, name: str) -> Tensor:
        """``surprisal`` or ``sinks``, float32 ``[N]``."""
        if name not in self._scores:
            self._scores[name] = self._read_scores(name).clone()
        return self._scores[name]

    def _read_scores(self, name: str) -> Tensor:
        remedy = f"{self.remedy} {name.upper()}=1"
        return read(self.folder / f"{name}.pt", self.expected, remedy, "scores")

    def forget(self) -> bool | None:
        """Drop the files from memory and from the page cache.

        Returns
        -------
        Whether the KVs have really left it: advice that a system takes need not be followed. None
        where nobody can tell.
        """
        self._memory = None
        self._scores.clear()
        for name in (KVS, *(f"{name}.pt" for name in SCORES)):
            _advise(self.folder / name, "POSIX_FADV_DONTNEED")
        share = resident_share(self.folder / KVS)
        return None if share is None else share < DROPPED

    def cold(self, watch: Stopwatch, target: Tensor) -> LayerStream | None:
        """Disk → memory → ``target`` ``[2, L, H_kv, N, D]``; on a CPU both are one copy."""
        path = self.folder / KVS
        _advise(path, "POSIX_FADV_WILLNEED")  # read ahead, not one page fault after another
        stored = read(path, self.expected, self.remedy, "kv")
        if target.device.type == "cuda":
            self._memory = torch.empty_like(stored, pin_memory=True).copy_(stored)
            watch.lap("load")
            return self.ready(watch, target)
        self._memory = stored
        target.copy_(stored)
        watch.lap("load")
        return None

    def ready(self, watch: Stopwatch, target: Tensor) -> LayerStream | None:
        """Memory → ``target``; :meth:`cold` comes first and leaves the memory behind.

        On CUDA the layers follow each other on a second stream, which is returned.
        """
        assert self._memory is not None, "nothing is in memory yet"
        if target.device.type == "cuda":
            stream = LayerStream(self._memory, target).start()
            watch.lap("transfer")
            return stream
        target.copy_(self._memory)
        watch.lap("transfer")
        return None


def _advise(path: Path, advice: str) -> None:
    """Tell the system what will be done with a file's pages, where it takes advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, getattr(os, advice))


def item_folder(root: str | Path, model: str, dataset: str, item_id: str) -> Path:
    """Where one item's files lie."""
    return Path(root) / model / dataset / f"item_{item_id}"


def kv_bytes(modules: Modules, tokens: int) -> int:
    """Bytes of ``kvs.pt``'s tensor for ``tokens`` tokens."""
    return math.prod(modules.kv_shape(tokens)) * modules.dtype.itemsize
