"""Specs: a corrector's name with options of its own, ``shift``, ``shift:what=keys``."""

from __future__ import annotations

from typing import Any

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


def build(spec: str, **defaults: Any) -> BaseCorrector | None:
    """Build a corrector from a spec; None for ``none``. See :meth:`Registry.build`."""
    return None if spec == NONE else CORRECTORS.build(spec, **defaults)


def spec_of(corrector: BaseCorrector | None) -> str:
    """The shortest spec of a corrector."""
    return NONE if corrector is None else CORRECTORS.spec_of(corrector)
