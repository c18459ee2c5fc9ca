"""Who refers to which chunks: an item's manifest, ``<kvs>/<model>/<owner>/kvs.json``.

The manifests are the truth about references; the index only remembers what they say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.atomic import sync_folder, writing
from models.chunks.names import is_key
from models.chunks.troubles import damaged, reading
from models.sealed import parse, seal, unseal

NAME = "kvs.json"
KIND = "manifest"
CHUNKS = "chunks"


def encode(owner: str, keys: Sequence[str], content: Mapping[str, Any]) -> bytes:
    """A manifest's text: the keys in order, and what else is to be kept with them."""
    if {"kind", "owner", CHUNKS} & content.keys():
        raise ValueError("kind, owner and chunks are the manifest's own")
    sealed = seal({"kind": KIND, "owner": owner, CHUNKS: list(keys), **content})
    return json.dumps(sealed, allow_nan=False).encode() + b"\n"


def decode(text: bytes, owner: str, place: object) -> dict[str, Any]:
    """A manifest from its text.

    Raises
    ------
    Damaged : it is none, another owner's, or changed since it was written; ``place`` says which.
    """
    try:
        found = unseal(parse(text))
        keys = found.get(CHUNKS)
        if found.get("kind") != KIND or not isinstance(keys, list) or not all(map(is_key, keys)):
            raise ValueError("no manifest")
        if found.get("owner") != owner:
            raise ValueError("another item's manifest")
    except ValueError as error:
        raise damaged(place, str(error).splitlines()[0]) from None
    return found


def keys_of(manifest: Mapping[str, Any]) -> list[str]:
    """The chunks that a manifest names, in order."""
    return list(manifest[CHUNKS])


def name_of(owner: str) -> str:
    """An owner's manifest below the model's folder.

    Raises
    ------
    ValueError : the owner is no ``<dataset-folder>/<item-folder>``.
    """
    parts = owner.split("/")
    if len(parts) != 2 or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{owner!r} is no <dataset-folder>/<item-folder>")
    return f"{owner}/{NAME}"


def owner_of(name: str) -> str | None:
    """The owner of a file below the model's folder; None where it is no manifest."""
    owner, _, last = name.rpartition("/")
    return owner if last == NAME and owner.count("/") == 1 else None


def read(base: Path, owner: str) -> dict[str, Any]:
    """A manifest below a model's folder; raises Missing, Damaged, Forbidden or Unreachable."""
    path = base / name_of(owner)
    with reading(path):
        text = path.read_bytes()
    return decode(text, owner, path)


def write(base: Path, owner: str, keys: Sequence[str], content: Mapping[str, Any]) -> None:
    """Write a manifest, complete or not at all."""
    path = base / name_of(owner)
    with writing(path) as file:
        file.write(encode(owner, keys, content))
    sync_folder(path.parent)
