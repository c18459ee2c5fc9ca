"""Specs: a corrector's name with options of its own, ``shift``, ``shift:what=keys``."""

from models.correctors.base import BaseCorrector
from models.registry import Registry

NONE = "none"
CORRECTORS: Registry[BaseCorrector] = Registry(
    package=__package__,
    base=BaseCorrector,
    noun="corrector",
    many="corrector",
    method="correct(change)",
    variable="CORRECT",
    group="kvfuse.correctors",
    nothing=NONE,
    nothing_says=f"{NONE} corrects nothing",
    support=("base", "spec"),
)
names = CORRECTORS.names
register = CORRECTORS.register
corrector_class = CORRECTORS.find
code_of = CORRECTORS.code_of
build = CORRECTORS.build_or_none
spec_of = CORRECTORS.spec_or_nothing
add = CORRECTORS.add
