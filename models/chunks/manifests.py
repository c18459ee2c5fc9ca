"""Who refers to which chunks: an item's manifest, ``<kvs>/<model>/<owner>/kvs.json``.

The manifests are the truth about references; the index only remembers what they say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from models.atomic import sync_folder, writing
from models.chunks.troubles import damaged, reading
from models.sealed import parse, seal, unseal

NAME = "kvs.json"
KIND = "manifest"
CHUNKS = "chunks"


def encode(keys: Sequence[str], content: Mapping[str, Any]) -> bytes:
    """A manifest's text: the keys in order, and what else is to be kept with them."""
    if {"kind", CHUNKS} & content.keys():
        raise ValueError("kind and chunks are the manifest's own")
    sealed = seal({"kind": KIND, CHUNKS: list(keys), **content})
    return json.dumps(sealed, allow_nan=False).encode() + b"\n"


def decode(text: bytes, place: object) -> dict[str, Any]:
    """A manifest from its text.

    Raises
    ------
    Damaged : it is none, or changed since it was written; ``place`` says which.
    """
    try:
        found = unseal(parse(text))
        if found.get("kind") != KIND:
            raise ValueError("no manifest")
    except ValueError as error:
        raise damaged(place, str(error).splitlines()[0]) from None
    return found


def path_of(base: Path, owner: str) -> Path:
    """Where an owner's manifest lies below the model's folder."""
    check(owner)
    return base / owner / NAME


def check(owner: str) -> None:
    """Raise ValueError for an owner that is no relative path of two parts, as data/item_1."""
    parts = PurePosixPath(owner).parts
    if len(parts) != 2 or ".." in parts or owner.startswith("/"):
        raise ValueError(f"{owner!r} is no <dataset-folder>/<item-folder>")


def read(path: Path) -> dict[str, Any]:
    """A manifest; raises Missing, Damaged, Forbidden or Unreachable."""
    with reading(path):
        text = path.read_bytes()
    return decode(text, path)


def write(path: Path, keys: Sequence[str], content: Mapping[str, Any]) -> None:
    """Write a manifest, complete or not at all."""
    with writing(path) as file:
        file.write(encode(keys, content))
    sync_folder(path.parent)


def find(base: Path) -> Iterator[tuple[str, Path]]:
    """All owners below a model's folder with their manifests' paths, sorted."""
    for path in sorted(base.glob(f"*/*/{NAME}")):
        yield path.parent.relative_to(base).as_posix(), path
