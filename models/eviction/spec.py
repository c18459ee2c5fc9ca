"""Specs: a policy's name with options of its own, ``snapkv``, ``snapkv:keep=0.25``."""

from __future__ import annotations

from typing import Any

from models.eviction.base import BasePolicy
from models.registry import Registry

NONE = "none"
POLICIES: Registry[BasePolicy] = Registry(
    package=__package__,
    base=BasePolicy,
    noun="policy",
    many="policy",
    method="score(rows)",
    variable="DROP",
    group="kvfuse.policies",
    nothing=NONE,
    nothing_says=f"{NONE} evicts nothing",
    support=("attention", "base", "generate", "layer", "spec"),
)
names = POLICIES.names
register = POLICIES.register
policy_class = POLICIES.find
code_of = POLICIES.code_of


def build(spec: str, **defaults: Any) -> BasePolicy | None:
    """Build a policy from a spec; None for ``none``. See :meth:`Registry.build`."""
    return None if spec == NONE else POLICIES.build(spec, **defaults)


def spec_of(policy: BasePolicy | None) -> str:
    """The shortest spec of a policy."""
    return NONE if policy is None else POLICIES.spec_of(policy)
