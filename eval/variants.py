"""The methods of an evaluation: a selector at one rate, a corrector or none, a policy or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_type_hints

from data.context import Context
from eval.config import EvalConfig
from eval.drops import Drops, make_policies
from models import codecs, correctors, eviction, selectors
from models.errors import UserError
from models.extension import Extension, option_fields
from models.registry import Built
from stage.config import AUTO
from stage.options import Option, options_of

Where = tuple[str, str]  # what chunks are captured behind, and how they lie on disk


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
    codec : how they lie on disk, as ``CODEC`` names it.
    policy : None where no row leaves the cache.
    policy_code : hash of its source.
    """

    spec: str
    selector: selectors.BaseSelector | None
    rate: float | None
    code: str | None = None
    corrector: correctors.BaseCorrector | None = None
    corrector_code: str | None = None
    context: str | None = None
    codec: str = codecs.NONE
    policy: eviction.BasePolicy | None = None
    policy_code: str | None = None

    @property
    def where(self) -> Where | None:
        """Which KVs it reads; None for the full prefill."""
        return (self.context, self.codec) if self.context else None

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
    """Every method of ``REUSE`` at every rate, under every codec, with every policy, each once.

    Raises
    ------
    UserError : an unknown method, corrector or option; two files of one name; or an option that no
        chosen method or corrector has: it would change nothing; or one that is named on the line
        and is both the command's and a method's.
    """
    found: dict[tuple[str, float | None], Variant] = {}
    drops = make_policies(config)
    coded = list(dict.fromkeys(codecs.spec_of(codecs.build(codec)) for codec in config.codec))
    for name in config.reuse:
        if name == selectors.FULL_PREFILL:
            for variant in _dropping(Variant(name, None, None), drops):
                found[variant.spec, None] = variant
            continue
        selector = selectors.build(name, **config.method_options)
        context = selector.context if config.context == AUTO else config.context
        code = selectors.code_of(selector)
        made = make_correctors(config, selector).values()
        for (corrector, corrector_code), codec in product(made, coded):
            spec = label(selector, corrector, context, codec)
            for rate in sorted(set(config.rate)) if selector.knows_rate else [None]:
                plain = Variant(
                    spec, selector, rate, code, corrector, corrector_code, context, codec
                )
                for variant in _dropping(plain, drops):
                    there = found.setdefault((variant.spec, rate), variant)
                    if type(there.selector) is not type(selector):
                        raise UserError(
                            f"REUSE={name}: another method {spec} is named too; rename a file"
                        )
    parts = [(v.selector, v.corrector, v.policy) for v in found.values()]
    chosen: list[Extension] = [part for each in parts for part in each if part]
    known = {key for extension in chosen for key in extension.identity()}
    for name in sorted(known & options_of(type(config)).keys() & config.given.keys()):
        raise UserError(
            f"{name.upper()}= is the command's own, and an option of one of REUSE, CORRECT or DROP "
            f"has that name too: rename it in its file"
        )
    for name in config.method_options:
        if name not in known:
            methods, named = " ".join(config.reuse), " ".join(config.correct)
            dropped = (
                f" or DROP={' '.join(config.drop)!r}" if config.drop != [eviction.NONE] else ""
            )
            raise UserError(
                f"{name.upper()}= is an option of none of REUSE={methods!r} or CORRECT={named!r}"
                f"{dropped}"
            )
    return list(found.values())


def label(
    selector: selectors.BaseSelector,
    corrector: correctors.BaseCorrector | None,
    context: str,
    codec: str = codecs.NONE,
) -> str:
    """A method as tables name it: ``prophet``, ``prophet + shift @ primed:256 [int8]``."""
    corrected = correctors.spec_of(corrector)
    own = Context.parse(selector.context)
    chosen = Context.parse(context)
    return (
        selectors.spec_of(selector)
        + ("" if corrected == selector.corrector else f" + {corrected}")
        + ("" if chosen == own else f" @ {chosen.label}")
        + ("" if codec == codecs.NONE else f" [{codec}]")
    )


def _dropping(variant: Variant, drops: Drops) -> Iterator[Variant]:
    """The variant with every policy, named after it."""
    for spec, (policy, code) in drops.items():
        full = variant.spec if policy is None else f"{variant.spec} + drop={spec}"
        yield replace(variant, spec=full, policy=policy, policy_code=code)


def make_correctors(
    config: EvalConfig, selector: selectors.BaseSelector
) -> Built[correctors.BaseCorrector]:
    """Every corrector of ``CORRECT`` by its spec, each once, with the hash of its source."""
    found: Built[correctors.BaseCorrector] = {}
    for named in config.correct:
        name = selector.corrector if named == AUTO else named
        correctors.add(found, name, **config.method_options)
    return found


def method_options(config: EvalConfig) -> Iterator[Option]:
    """The options of all selectors, correctors and policies that there are, or are named."""
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
    for name in dict.fromkeys([*eviction.names(), *config.drop]):
        if name.partition(":")[0] != eviction.NONE:
            yield name, eviction.policy_class(name)
