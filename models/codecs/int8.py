"""Integers of 8 bits."""

from dataclasses import dataclass

from models.codecs.grouped import Integers


@dataclass
class Codec(Integers):
    """A quarter of float32's bytes and some, half of bfloat16's."""

    bits = (8, 8)
