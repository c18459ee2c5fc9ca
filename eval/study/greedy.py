"""A greedy oracle: how near to the full prefill a few recomputed rows can come, by trying.

Run it from the root: ``python -m eval.study.greedy LIMIT=3 RATE=0.05 REUSE=prophet``. It tries
hundreds of sets an item, each a fused prefill, and reports beside them what methods reach.
"""

from __future__ import annotations

import json
import sys
from chunk.build import ensure
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from data.inputs import Item
from eval import gating
from eval.analysis.fidelity import mean_kl
from eval.config import EvalConfig
from eval.evaluator import Evaluator, Reference
from eval.runner import check_layers, check_room
from eval.variants import Variant, make_variants, method_options
from models import codecs, correctors, eviction
from models.atomic import writing
from models.errors import UserError
from models.probe import Probe
from models.prompt import Prompt
from models.selectors import BaseSelector
from precompute.build import precompute
from stage.columns import columns
from stage.options import command, option
from stage.session import Session, begin

Positions = list[int]


@dataclass
class GreedyConfig(EvalConfig):
    """Grow the recomputed set block by block, each time by the block that lowers KL most."""

    limit: int | None = option(3, "only the first so many items (3)")
    reuse: list[str] = option(["prophet"], "methods to compare with, each at the same rate")
    rate: list[float] = option([0.05], "share of document tokens, one (0.05)")
    block: int = option(16, "document tokens that are taken or left together (16)")

    cold: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1:
            raise UserError(f"BLOCK={self.block} must be at least 1")
        if len(self.rate) != 1 or len(self.correct) != 1:
            raise UserError("give one RATE and one CORRECT: the oracle grows a set for one of each")
        if self.drop != [eviction.NONE]:
            raise UserError("DROP= changes nothing here: distances are measured before rows leave")


@dataclass
class Told(BaseSelector):
    """Positions that were chosen before, whatever the rate."""

    positions: Positions

    @property
    def knows_rate(self) -> bool:
        return False

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        return torch.tensor(self.positions, dtype=torch.long, device=probe.device)


def blocks_of(prompt: Prompt, size: int) -> list[Positions]:
    """Each chunk cut into stretches of so many tokens, its last one shorter."""
    return [
        list(range(first, min(first + size, end)))
        for start, end in prompt.chunks
        for first in range(start, end, size)
    ]


def grow(
    blocks: Sequence[Positions],
    budget: int,
    distance: Callable[[Positions], float],
    tried: Callable[[], Any] = lambda: None,
) -> list[tuple[Positions, float]]:
    """The set after each step, with its distance; each step adds the block that leaves the least.

    Ends where no block that is left fits into ``budget`` tokens. A step that makes it worse is
    taken too: later ones may need it. By no means the best set of its size: greedy, in blocks.
    """
    left, steps, chosen = list(blocks), [], Positions()
    while fitting := [b for b in left if len(chosen) + len(b) <= budget]:
        found = []
        for block in fitting:
            found.append(distance(sorted([*chosen, *block])))
            tried()
        best = min(range(len(fitting)), key=found.__getitem__)
        chosen = sorted([*chosen, *fitting[best]])
        left.remove(fitting[best])
        steps.append((chosen, found[best]))
    return steps


def trials(blocks: Sequence[Positions], budget: int) -> int:
    """About how many sets :func:`grow` tries."""
    size = max(map(len, blocks), default=1)
    return sum(len(blocks) - step for step in range(min(budget // size, len(blocks))))


def study(session: Session, config: GreedyConfig, variants: Sequence[Variant]) -> dict[str, Any]:
    """KL along the full prefill's answer: of nothing recomputed, of each method, of greedy's sets.

    ``items`` hold them one by one; ``means`` over items, and ``room``, the share of a method's KL
    that greedy's last set removes.
    """
    evaluator = Evaluator(session, config, variants)
    if len(evaluator.sources) != 1:
        raise UserError(
            "the oracle grows a set over one kind of KVs: give one CONTEXT for all of REUSE, and "
            "one CODEC"
        )
    [source] = evaluator.sources.values()
    session = source.session
    check_room(session, evaluator.max_new_tokens)
    check_layers(session, variants)
    precompute(session, sorted({*config.scores, *source.needs}))
    for item in session.inputs.items:
        evaluator.check(item)
    gating.checked(session)
    longest = max(len(item.prompt) for item in session.inputs.items)
    session.engine.cache.reserve(longest + evaluator.max_new_tokens)
    items = [look(evaluator, config, item, variants) for item in session.inputs.items]
    names = items[0]["kl"]
    means = {name: fmean(item["kl"][name] for item in items) for name in names}
    best = means["greedy"]
    return {
        "model": session.source.name,
        "dataset": session.dataset.name,
        "context": session.context.label,
        "codec": codecs.spec_of(session.codec),
        "corrector": correctors.spec_of(_given(variants).corrector),
        "rate": config.rate[0],
        "block": config.block,
        "means": means,
        "room": {name: 1 - best / kl if kl else None for name, kl in means.items()},
        "items": items,
    }


def _given(variants: Iterable[Variant]) -> Variant:
    """One whose corrector, context and codec all methods have, and so greedy's sets too."""
    return next(v for v in variants if v.selector)


def look(
    evaluator: Evaluator, config: GreedyConfig, item: Item, variants: Iterable[Variant]
) -> dict[str, Any]:
    """One item: distances by name, and greedy's curve, ``[tokens, KL]`` a step."""
    reference = evaluator.reference(item)
    rate = config.rate[0]
    given = _given(variants)

    def distance(positions: Positions) -> float:
        told = replace(given, spec="greedy", selector=Told(positions), rate=rate)
        return kl(evaluator, item, told, reference)

    blocks, budget = blocks_of(item.prompt, config.block), item.prompt.budget(rate)
    found = {"nothing recomputed": distance([])}
    for variant in variants:
        found[variant.spec] = kl(evaluator, item, variant, reference)
    with tqdm(
        total=trials(blocks, budget), desc=f"item {item.id}", unit="set", disable=None
    ) as bar:
        steps = grow(blocks, budget, distance, bar.update)
    curve = [(0, found["nothing recomputed"]), *((len(chosen), kl) for chosen, kl in steps)]
    chosen = steps[-1][0] if steps else []
    return {
        "id": item.id,
        "budget": budget,
        "kl": found | {"greedy": curve[-1][1]},
        "curve": curve,
        "positions": chosen,
    }


def kl(evaluator: Evaluator, item: Item, variant: Variant, reference: Reference) -> float:
    """Mean KL (nats) along the full prefill's answer of one fused prefill."""
    _, ready, _ = evaluator.fuse(item, variant, reference)
    return mean_kl(reference.logits, evaluator.engine.follow(ready, reference.forced))


def table(found: dict[str, Any]) -> str:
    """What was found, for people."""
    rows = [("", "KL answer", "room %")]
    for name, value in found["means"].items():
        room = found["room"][name]
        share = "" if name == "greedy" or room is None else f"{100 * room:.0f}"
        rows.append((name, f"{value:.4f}", share))
    n = len(found["items"])
    head = f"{found['model']} on {found['dataset']}: {n} items, r = {found['rate']:g}, "
    behind = (
        f"chunks behind {found['context']}, codec {found['codec']}, corrector {found['corrector']}"
    )
    legend = (
        f"greedy: blocks of {found['block']} tokens, each the one that lowers KL most; an oracle, "
        "whose sets stay within the rate.\nroom: share of a method's KL that it removes."
    )
    return "\n".join([head + behind, "", *columns(rows, "<>>"), "", legend])


def main(config: GreedyConfig) -> None:
    """Study every dataset named; print a table and keep ``greedy-<dataset>.json``."""
    variants = [v for v in make_variants(config) if v.selector]
    for session in begin(config, ensure):
        found = study(session, config, variants)
        path = Path(config.outputs) / session.source.name / f"greedy-{session.dataset.name}.json"
        with writing(path) as file:
            file.write(json.dumps(found, indent=1, allow_nan=False).encode())
        print(f"\n{table(found)}\n\ngreedy: {path}")


if __name__ == "__main__":
    sys.exit(command("greedy", GreedyConfig, main, more=method_options))
