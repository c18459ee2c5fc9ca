"""Keys of 8 bits, values of 4."""

from dataclasses import dataclass

from models.codecs.grouped import Integers


@dataclass
class Codec(Integers):
    """An error in keys moves where attention looks; one in values is averaged over many."""

    bits = (8, 4)
