"""The methods of an evaluation: each a selector at one rate, with a corrector or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from data.context import Context
from eval.config import EvalConfig
from models import correctors, selectors
from models.errors import UserError
from models.extension import Extension, option_fields
from stage.config import AUTO
from stage.options import Option


@dataclass(frozen=True)
class Variant:
    """One way to prefill that is measured.

    Attributes
    ----------
    spec : the method as tables name it, ``no`` for the full prefill; with the corrector and the
        context, where they are not its own.
    selector : None for the full prefill.
    rate : None for a method that does not know one.
    code : hash of the selector's source, as it runs.
    corrector : None where cached rows stay as they are.
    corrector_code : hash of its source.
    context : what its chunks are captured behind, as ``CONTEXT`` names it; None for the full
        prefill.
    """

    spec: str
    selector: selectors.BaseSelector | None
    rate: float | None
    code: str | None = None
    corrector: correctors.BaseCorrector | None = None
    corrector_code: str | None = None
    context: str | None = None

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
    UserError : an unknown method, corrector or option; two files of one name; or an option that no
        chosen method or corrector has: it would change nothing.
    """
    found: dict[tuple[str, float | None], Variant] = {}
    for name in config.reuse:
        if name == selectors.FULL_PREFILL:
            found[name, None] = Variant(name, None, None)
            continue
        selector = selectors.build(name, **config.method_options)
        context = selector.context if config.context == AUTO else config.context
        code = selectors.code_of(selector)
        for corrector, corrector_code in make_correctors(config, selector).values():
            spec = label(selector, corrector, context)
            for rate in sorted(set(config.rate)) if selector.knows_rate else [None]:
                variant = Variant(spec, selector, rate, code, corrector, corrector_code, context)
                if type(found.setdefault((spec, rate), variant).selector) is not type(selector):
                    raise UserError(
                        f"REUSE={name}: another method {spec} is named too; rename a file"
                    )
    chosen = [found for v in found.values() for found in (v.selector, v.corrector) if found]
    known = {key for extension in chosen for key in extension.identity()}
    for name in config.method_options:
        if name not in known:
            methods, named = " ".join(config.reuse), " ".join(config.correct)
            raise UserError(
                f"{name.upper()}= is an option of none of REUSE={methods!r} or CORRECT={named!r}"
            )
    return list(found.values())


def label(
    selector: selectors.BaseSelector, corrector: correctors.BaseCorrector | None, context: str
) -> str:
    """A method as tables name it: ``prophet``, ``prophet + shift @ primed:256``."""
    corrected = correctors.spec_of(corrector)
    own = Context.parse(selector.context)
    chosen = Context.parse(context)
    return (
        selectors.spec_of(selector)
        + ("" if corrected == selector.corrector else f" + {corrected}")
        + ("" if chosen == own else f" @ {chosen.label}")
    )


def make_correctors(
    config: EvalConfig, selector: selectors.BaseSelector
) -> dict[str, tuple[correctors.BaseCorrector | None, str | None]]:
    """Every corrector of ``CORRECT`` by its spec, each once, with the hash of its source."""
    found: dict[str, tuple[correctors.BaseCorrector | None, str | None]] = {}
    for named in config.correct:
        name = selector.corrector if named == AUTO else named
        built = correctors.build(name, **config.method_options)
        code = correctors.code_of(built) if built else None
        spec = correctors.spec_of(built)
        if type(found.setdefault(spec, (built, code))[0]) is not type(built):
            raise UserError(f"CORRECT={name}: another corrector {spec} is named too; rename a file")
    return found


def method_options(config: EvalConfig) -> Iterator[Option]:
    """The options of all selectors and correctors that there are, or are named, each once."""
    seen: dict[str, Option] = {}
    for name, cls in _extensions(config):
        hints = get_type_hints(cls)
        for field in option_fields(cls):
            help = field.metadata.get("help", f"option of {name}")
            seen.setdefault(field.name, Option(field.name, hints[field.name], help, field.default))
    yield from seen.values()


def _extensions(config: EvalConfig) -> Iterator[tuple[str, type[Extension]]]:
    for name in dict.fromkeys([*selectors.names(), *config.reuse]):
        if name.partition(":")[0] != selectors.FULL_PREFILL:
            yield name, selectors.selector_class(name)
    for name in dict.fromkeys([*correctors.names(), *config.correct]):
        if name.partition(":")[0] not in (correctors.NONE, AUTO):
            yield name, correctors.corrector_class(name)
