"""Stage 1's files: inputs/<model>/<dataset>.jsonl and its .meta.json, written and read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.segments import Splitting
from models.atomic import writing
from models.errors import UserError
from models.prompt import Prompt

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Item:
    """One question with its chunks.

    ``row`` is the line as it stands in the file: ``id``, ``chunks``, ``question``, ``answers``,
    ``all_classes``, ``length``, ``tokens`` and whatever else the benchmark scores with.
    """

    id: str
    answers: list[str]
    prompt: Prompt
    row: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """All items of one dataset for one model, and the sidecar that says what they are."""

    path: Path
    meta: dict[str, Any]
    items: list[Item]

    @property
    def settings(self) -> Splitting:
        return Splitting(**self.meta["settings"])

    @property
    def sink(self) -> list[int]:
        """Tokens put in front of a chunk that is captured alone."""
        return self.meta["sink"]

    @property
    def chunk_meta(self) -> dict[str, Any]:
        """What a KV file must have in common with these inputs, besides its tokens."""
        return {**self.meta["settings"], "sink": self.sink}

    @property
    def note(self) -> str | None:
        """The line that every result on a built-in sample carries."""
        if not self.meta["is_sample"]:
            return None
        return (
            f"BUILT-IN SAMPLE, NOT THE BENCHMARK: {self.meta['available']} rows written for kvfuse "
            f"stand in for {self.meta['dataset']}; no score compares with a published one"
        )

    def fingerprint(self) -> str:
        """16 hex over ids, tokens and answers of the items: the same fingerprint, the same test."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps([item.id, item.prompt.sha256(), item.answers]).encode())
        return digest.hexdigest()[:16]


def item_path(folder: str | Path, model: str, dataset: str) -> Path:
    """Where a dataset's inputs for a model lie."""
    return Path(folder) / model / f"{dataset}.jsonl"


def safe_ids(ids: Iterable[Any]) -> list[str]:
    """Row ids as folder names: other characters become ``-``, repeated ids get a number."""
    result: dict[str, None] = {}
    for index, raw in enumerate(ids):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(raw)).strip(".-")[:80] or str(index)
        unique, count = name, 1
        while unique in result:  # a numbered name may itself be another row's id
            count += 1
            unique = f"{name}-{count}"
        result[unique] = None
    return list(result)


def write(path: Path, rows: Sequence[dict[str, Any]], meta: dict[str, Any]) -> None:
    """Write both files; the sidecar comes last and seals the other by its sha256."""
    digest = hashlib.sha256()
    with writing(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
    sealed = {"format": FORMAT_VERSION, **meta, "sha256": digest.hexdigest()}
    with writing(meta_path(path)) as file:
        file.write(json.dumps(sealed, indent=2, ensure_ascii=False).encode() + b"\n")


def meta_path(path: Path) -> Path:
    """The sidecar beside an inputs file."""
    return path.with_suffix(".meta.json")


def read_meta(path: Path) -> dict[str, Any] | None:
    """The sidecar, or None where it is missing, damaged or of another format."""
    try:
        meta = json.loads(meta_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and meta.get("format") == FORMAT_VERSION else None


def read(path: Path, remedy: str, limit: int | None = None) -> Inputs:
    """Read the first ``limit`` items.

    Raises
    ------
    UserError : missing, or not the file that the sidecar seals; ``remedy`` is the command to run.
    """
    meta = read_meta(path)
    if meta is None or not path.is_file():
        raise UserError(f"{path} or its sidecar is missing or damaged; build it: {remedy}")
    lines = path.read_bytes()
    if hashlib.sha256(lines).hexdigest() != meta["sha256"]:
        raise UserError(f"{path} is not what its sidecar describes; rebuild it: {remedy}")
    items = [_item(json.loads(line)) for line in lines.splitlines()[:limit]]
    return Inputs(path, meta, items)


def _item(row: dict[str, Any]) -> Item:
    tokens = row["tokens"]
    prompt = Prompt.join(tokens["prefix"], tokens["chunks"], tokens["question"])
    return Item(row["id"], row["answers"], prompt, row)
