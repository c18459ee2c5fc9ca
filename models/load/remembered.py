"""What loading a model found out about its weights, remembered while its files stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedConfig

from models.atomic import writing
from models.code import code_digest
from models.errors import UserError
from models.load.source import ModelSource, cache_dir
from models.processor import processor
from models.sealed import parse, seal, unseal

Where = tuple[torch.device, torch.dtype]


@dataclass(frozen=True)
class Known:
    """What identifies a model's weights, the ids that end an answer, and how its layers run.

    ``linear`` is the path that its linear layers take where it was loaded.
    """

    fingerprint: str
    stop_ids: list[int]
    linear: str


def recall(source: ModelSource, config: PreTrainedConfig, where: Where) -> Known | None:
    """What :func:`keep` was told of these very files; None where it was not, or is damaged."""
    memo = _memo(source, config, where)
    if memo is None:
        return None
    try:
        found = unseal(parse(memo.read_bytes()))
        stop_ids = [int(token) for token in found["stop_ids"]]
        return Known(str(found["fingerprint"]), stop_ids, str(found["linear"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(source: ModelSource, config: PreTrainedConfig, where: Where, known: Known) -> None:
    """Remember it for these files; a cache that cannot be written only costs the next loading."""
    memo = _memo(source, config, where)
    if memo is not None and recall(source, config, where) != known:
        with contextlib.suppress(UserError), writing(memo) as file:
            file.write(json.dumps(seal(asdict(known))).encode())


def forget(source: ModelSource, config: PreTrainedConfig, where: Where) -> None:
    """Remember nothing of these files."""
    memo = _memo(source, config, where)
    if memo is not None:
        memo.unlink(missing_ok=True)


def _memo(source: ModelSource, config: PreTrainedConfig, where: Where) -> Path | None:
    """Named by path, size and time of change of every file, and by who reads them where."""
    folder = _folder(source, config)
    if folder is None:
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    stats = sorted((str(path.resolve()), path.stat()) for path in files)
    lines = [f"{name}|{stat.st_size}|{stat.st_mtime_ns}" for name, stat in stats]
    code = code_digest("models.load.weights", "models.load.tokenizer")
    device, dtype = where
    place = [str(device), str(dtype), str(torch.get_num_threads()), processor()]
    key = "\n".join([code, transformers.__version__, str(torch.__version__), *place, *lines])
    return cache_dir() / "weights" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _folder(source: ModelSource, config: PreTrainedConfig) -> Path | None:
    """Where the files lie: for a model of the hub, the snapshot that the configuration is of."""
    if source.is_local:
        return Path(source.location)
    commit = getattr(config, "_commit_hash", None)
    cached = try_to_load_from_cache(source.location, "config.json", revision=commit)
    return Path(cached).parent if commit and isinstance(cached, str) else None
