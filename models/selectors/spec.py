"""Specs: a selector's name with options of its own, ``debug``, ``debug:check=cached``."""

from models.registry import Registry
from models.selectors.base import BaseSelector

ALIASES = {"a3": "debug", "cacheblend": "blend"}
FULL_PREFILL = "no"
SELECTORS: Registry[BaseSelector] = Registry(
    package=__package__,
    base=BaseSelector,
    noun="selector",
    many="method",
    method="select(probe)",
    variable="REUSE",
    group="kvfuse.selectors",
    nothing=FULL_PREFILL,
    nothing_says=f"{FULL_PREFILL} is the full prefill: it selects nothing",
    support=("base", "spec", "shares"),
    aliases=ALIASES,
)
names = SELECTORS.names
register = SELECTORS.register
canonical = SELECTORS.canonical
selector_class = SELECTORS.find
make = SELECTORS.make
build = SELECTORS.build
name_of = SELECTORS.name_of
spec_of = SELECTORS.spec_of
code_of = SELECTORS.code_of
