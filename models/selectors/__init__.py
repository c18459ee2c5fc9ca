"""Selectors: which document positions to recompute. One file each, found by its name.

A selector is a dataclass named ``Selector`` in ``models/selectors/<name>.py``, or in a file of the
user's, with a method ``select(probe)`` that returns document positions; its fields are its options.
"""

from models.extension import option, option_fields
from models.selectors.base import BaseSelector, top_k
from models.selectors.spec import (
    ALIASES,
    FULL_PREFILL,
    build,
    canonical,
    code_of,
    make,
    names,
    register,
    selector_class,
    spec_of,
)

__all__ = [
    "ALIASES",
    "FULL_PREFILL",
    "BaseSelector",
    "build",
    "canonical",
    "code_of",
    "make",
    "names",
    "option",
    "option_fields",
    "register",
    "selector_class",
    "spec_of",
    "top_k",
]
