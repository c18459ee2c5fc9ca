"""Correctors: what is done to rows that are not recomputed. One file each, found by its name.

A corrector is a dataclass named ``Corrector`` in ``models/correctors/<name>.py``, or in a file of
the user's, with a method ``correct(change)``; its fields are its options.
"""

from models.correctors.base import KEYS, VALUES, BaseCorrector, Change
from models.correctors.spec import (
    NONE,
    add,
    build,
    code_of,
    corrector_class,
    names,
    register,
    spec_of,
)
from models.extension import option, option_fields

__all__ = [
    "KEYS",
    "NONE",
    "VALUES",
    "BaseCorrector",
    "Change",
    "add",
    "build",
    "code_of",
    "corrector_class",
    "names",
    "option",
    "option_fields",
    "register",
    "spec_of",
]
