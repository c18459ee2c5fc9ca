"""Under which key a chunk is kept: a hash of all that its keys and values depend on.

Not of the item that it stands in: another order of documents, another question or length of the
prompt leaves every chunk what it was. RoPE's parameters belong to a key although keys are kept
unrotated: the layers below have attended with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from models import codecs
from models.codecs import BaseCodec
from models.kv.format import FORMAT_VERSION
from models.kv.pieces import Piece

LAYOUT = 1  # raised whenever a chunk's file would hold the same KVs otherwise
KV = "kv"
CAPTURED_BY = ("weights", "tokenizer", "dtype", "rope")


def described(codec: BaseCodec) -> dict[str, Any]:
    """What decides a codec's bytes: of one that is no part of this project, its source as well."""
    foreign = not type(codec).__module__.startswith(f"{codecs.__name__}.")
    return {
        "name": codecs.spec_of(codec),
        "options": codec.identity(),
        "version": type(codec).version,
        **({"code": codecs.code_of(codec)} if foreign else {}),
    }


def key_of(meta: Mapping[str, Any], piece: Piece, kind: str, codec: BaseCodec) -> str:
    """64 hex for a piece's KVs, or for scores found with them.

    Parameters
    ----------
    meta : an item's, from :func:`models.kv.format.describe`; only what says how its model computes
        is looked at.
    kind : ``kv``, ``surprisal`` or ``sinks``. Scores are kept as they are under any codec.
    """
    content = {
        "layout": [FORMAT_VERSION, LAYOUT],
        "kind": kind,
        **{name: meta[name] for name in CAPTURED_BY},
        "header": piece.header,
        "front": piece.front,
        "ids": piece.ids,
        **({"codec": described(codec)} if kind == KV else {}),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return str(blake3(text.encode()).hexdigest())
