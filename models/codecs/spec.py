"""Specs: a codec's name with options of its own, ``int8``, ``int4:tokens=32``."""

from models.codecs.base import BaseCodec
from models.registry import Registry

NONE = "none"  # a codec like the others, without options: rows as they are
CODECS: Registry[BaseCodec] = Registry(
    package=__package__,
    base=BaseCodec,
    noun="codec",
    many="codec",
    method="pack(kind, layer, n_layers, rows) or decode(kind, parts, out)",
    variable="CODEC",
    group="kvfuse.codecs",
    nothing=NONE,
    nothing_says=f"{NONE} keeps rows as they are",
    support=("base", "spec", "affine", "grouped", "hadamard"),
)
names = CODECS.names
register = CODECS.register
codec_class = CODECS.find
code_of = CODECS.code_of
spec_of = CODECS.spec_of


def build(spec: str) -> BaseCodec:
    """Build a codec from its spec.

    Raises
    ------
    UserError : unknown name or option, or a value that it does not take.
    """
    return CODECS.make(NONE) if spec == NONE else CODECS.build(spec)
