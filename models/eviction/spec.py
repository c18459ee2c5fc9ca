"""Specs: a policy's name with options of its own, ``snapkv``, ``snapkv:keep=0.25``."""

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
build = POLICIES.build_or_none
spec_of = POLICIES.spec_or_nothing
add = POLICIES.add
