"""Eviction policies: which cached rows stay. One file each, found by its name.

A policy is a dataclass named ``Policy`` in ``models/eviction/<name>.py``, or in a file of the
user's, with a method ``score(rows)``; its fields are its options.
"""

from models.eviction.base import BasePolicy, Rows, chosen, keep, require_tokens
from models.eviction.spec import NONE, add, build, code_of, names, policy_class, register, spec_of
from models.extension import option, option_fields

__all__ = [
    "NONE",
    "BasePolicy",
    "Rows",
    "add",
    "build",
    "chosen",
    "code_of",
    "keep",
    "names",
    "option",
    "option_fields",
    "policy_class",
    "register",
    "require_tokens",
    "spec_of",
]
