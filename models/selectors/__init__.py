"""Selectors: which document positions to recompute. One file each, found by its name.

A selector is a dataclass named ``Selector`` in ``models/selectors/<name>.py`` with a method
``select(probe)`` that returns document positions; its fields are its options. A *spec* names a
selector with options of its own: ``debug``, ``debug:check=cached``, ``epic:lego_k=8``.
"""

from models.selectors.base import BaseSelector, top_k
from models.selectors.spec import ALIASES, FULL_PREFILL, build, canonical, make, names, spec_of

__all__ = [
    "ALIASES",
    "FULL_PREFILL",
    "BaseSelector",
    "build",
    "canonical",
    "make",
    "names",
    "spec_of",
    "top_k",
]
