"""What one item's files hold, what seals them, and what they were made from.

``kvs.pt``, ``surprisal.pt`` and ``sinks.pt`` are each a dict with a ``kind``, a tensor (``kv`` or
``scores``), a ``meta`` dict and a ``digest``, readable with
``torch.load(path, mmap=True, weights_only=True)``.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from blake3 import blake3
from torch import Tensor

from models.atomic import writing
from models.errors import UserError
from models.kv.capture import Captured
from models.modules import Modules
from models.prompt import Prompt

FORMAT_VERSION = 3  # raised whenever the same tokens would leave other KVs, or lie otherwise
KVS = "kvs.pt"
SCORES = ("surprisal", "sinks")
UNCHECKED = ("libraries", "model")


def file_name(kind: str) -> str:
    """The file of a kind: ``kv``, ``surprisal`` or ``sinks``."""
    return KVS if kind == "kv" else f"{kind}.pt"


def tensor_name(kind: str) -> str:
    """The tensor's key in a file of a kind."""
    return "kv" if kind == "kv" else "scores"


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
        "tokens": prompt.sha256(),
        "spans": [list(span) for span in prompt.segments],
        "shape": list(modules.kv_shape(len(prompt))),
        "libraries": {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def difference(found: dict[str, Any], expected: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field that differs, as ``outer.inner`` where nested, with both values; or None.

    Names of models and versions of libraries may differ. A field that only one side has differs.
    """
    for key in [*expected, *(key for key in found if key not in expected)]:
        if key in UNCHECKED:
            continue
        got, wanted = found.get(key), expected.get(key)
        if isinstance(wanted, dict) and isinstance(got, dict):
            inner = difference(got, wanted)
            if inner:
                return f"{key}.{inner[0]}", *inner[1:]
        elif got != wanted:
            return key, got, wanted
    return None


def mismatch(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """:func:`difference` in words, or None."""
    differs = difference(found, expected)
    if differs is None:
        return None
    field, got, wanted = differs
    return f"{field} is {_short(got)} in the file, the run expects {_short(wanted)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def digest(content: dict[str, Any]) -> str:
    """BLAKE3 over all that a file holds besides: its tensors' raw bytes, and the rest as JSON.

    Tensors are contiguous on the CPU; they are neither copied nor converted.
    """
    held = {name: value for name, value in content.items() if name != "digest"}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in held.items() if name not in tensors}
    layout = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    # The layout says where the text ends and each tensor's bytes, so that nothing can shift.
    text = json.dumps([plain, layout], sort_keys=True, separators=(",", ":"))
    hasher = blake3(text.encode())
    for name in sorted(tensors):
        hasher.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return str(hasher.hexdigest())


def write(folder: Path, captured: Captured, meta: dict[str, Any]) -> int:
    """Write an item's files, each to a temporary name, flushed, then renamed.

    ``kvs.pt`` comes last: where it exists, what was asked for together with it exists too.

    Returns
    -------
    bytes written.

    Raises
    ------
    UserError : NaN or infinity among the tensors, told before anything is written; the folder
        cannot be written; the disk is full.
    """
    kv = captured.kv.cpu()
    for what, tensor in [*captured.scores.items(), ("keys/values", kv)]:
        if not _finite(tensor):
            raise UserError(
                f"the model computed NaN or infinite {what} for {folder}; set DTYPE=float32, and "
                "if that does not help look for damage in the weights"
            )
    size = 0
    for name, scores in captured.scores.items():
        content = {"scores": scores, "chunk_ranges": meta["spans"][1:-1], "meta": meta}
        size += _write_one(folder, name, content)
    return size + _write_one(folder, "kv", {"kv": kv, "meta": meta})


def _finite(tensor: Tensor) -> bool:
    """Exact, and many times cheaper than a mask: NaN wins every comparison of ``aminmax``."""
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def _write_one(folder: Path, kind: str, content: dict[str, Any]) -> int:
    path = folder / file_name(kind)
    content = {"kind": kind, **content}
    with writing(path) as file:
        torch.save({**content, "digest": digest(content)}, file)
    return path.stat().st_size
