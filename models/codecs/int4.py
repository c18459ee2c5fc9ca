"""Integers of 4 bits, two a byte."""

from dataclasses import dataclass

from models.codecs.grouped import Integers


@dataclass
class Codec(Integers):
    """15 steps between a group's least and largest number."""

    bits = (4, 4)
