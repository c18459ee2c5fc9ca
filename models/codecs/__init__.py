"""Codecs: how a chunk's KVs lie on disk. One file each, found by its name.

A codec is a dataclass named ``Codec`` in ``models/codecs/<name>.py``, or in a file of the user's,
with methods ``pack(kind, layer, n_layers, rows)`` and ``decode(kind, parts, out)``; its fields are
its options.
"""

from models.codecs.base import KEYS, ROWS, VALUES, BaseCodec
from models.codecs.spec import NONE, build, code_of, codec_class, names, register, spec_of
from models.extension import option, option_fields

__all__ = [
    "KEYS",
    "NONE",
    "ROWS",
    "VALUES",
    "BaseCodec",
    "build",
    "code_of",
    "codec_class",
    "names",
    "option",
    "option_fields",
    "register",
    "spec_of",
]
