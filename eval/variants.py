"""The methods of an evaluation: each a selector with its options at one rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from eval.config import EvalConfig
from models import selectors
from models.errors import UserError
from stage.options import Option


@dataclass(frozen=True)
class Variant:
    """One way to prefill that is measured.

    Attributes
    ----------
    spec : the method as tables name it, ``no`` for the full prefill.
    selector : None for the full prefill.
    rate : None for a method that does not know one.
    code : hash of the selector's source, as it runs.
    """

    spec: str
    selector: selectors.BaseSelector | None
    rate: float | None
    code: str | None = None

    @property
    def oracle(self) -> bool:
        """Whether it is an upper bound instead of a method."""
        return self.selector is not None and self.selector.oracle

    @property
    def options(self) -> dict[str, Any]:
        """The options that change the result, and no others."""
        chosen = self.selector.identity() if self.selector else {}
        return chosen if self.rate is None else {"rate": self.rate, **chosen}


def make_variants(config: EvalConfig) -> list[Variant]:
    """Every method of ``REUSE`` at every rate, each once.

    Raises
    ------
    UserError : an unknown method or option; two files of one name; or an option that no chosen
        method has: it would change nothing.
    """
    found: dict[tuple[str, float | None], Variant] = {}
    for name in config.reuse:
        if name == selectors.FULL_PREFILL:
            found[name, None] = Variant(name, None, None)
            continue
        selector = selectors.build(name, **config.method_options)
        spec, code = selectors.spec_of(selector), selectors.code_of(selector)
        for rate in sorted(set(config.rate)) if selector.knows_rate else [None]:
            variant = Variant(spec, selector, rate, code)
            if type(found.setdefault((spec, rate), variant).selector) is not type(selector):
                raise UserError(f"REUSE={name}: another method {spec} is named too; rename a file")
    known = {key for v in found.values() if v.selector for key in v.selector.identity()}
    for name in config.method_options:
        if name not in known:
            methods = " ".join(config.reuse)
            raise UserError(f"{name.upper()}= is an option of none of REUSE={methods!r}")
    return list(found.values())


def method_options(config: EvalConfig) -> Iterator[Option]:
    """The options of all selectors that there are, or that ``REUSE`` names, each once."""
    seen: dict[str, Option] = {}
    for name in dict.fromkeys([*selectors.names(), *config.reuse]):
        if name.partition(":")[0] == selectors.FULL_PREFILL:
            continue
        cls = selectors.selector_class(name)
        hints = get_type_hints(cls)
        for field in selectors.option_fields(cls):
            help = field.metadata.get("help", f"option of {name}")
            seen.setdefault(field.name, Option(field.name, hints[field.name], help, field.default))
    yield from seen.values()
