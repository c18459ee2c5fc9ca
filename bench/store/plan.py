"""``kvfuse store plan``: what keeping these inputs' chunks takes and saves, from measured times."""

from __future__ import annotations

from chunk.build import ensure
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

from bench.breakeven import BANDWIDTHS
from bench.store.savings import chosen, mean_saving, measure
from models import selectors
from models.errors import UserError
from models.kv import store
from models.selectors import BaseSelector
from precompute.survey import Survey, coded_bytes, survey
from stage.columns import columns
from stage.config import AUTO, METHOD, ModelConfig
from stage.options import option
from stage.session import Session, begin

WIDTH = 120
DISKS = (None, *BANDWIDTHS)
TYPICAL = 512  # tokens of a chunk whose bytes under a codec are measured
COUNTS = (
    "chunks: segments of all items, prefixes and questions too; uses: of each different one. "
    "tokens: run where each item stands by itself; once: where every chunk is run once; less: what "
    "that leaves out. GB: keys and values, as files of items, and as chunks under a codec, headers "
    "aside."
)
SAVES = (
    "load: ms of a cold TTFT that wait for it; GB/s: what the disk reached. saves: ms of a "
    "question, its full prefill less its cold TTFT, the mean over all items; here, and were the "
    "disk to read so many GB/s. "
    "pays: questions until that makes up for running the chunks, and in brackets how often a chunk "
    "is used by then; -: never."
)


@dataclass
class PlanConfig(ModelConfig):
    """Count the chunks of a dataset, and measure on some of its items what keeping them saves."""

    reuse: str = option(METHOD, "the method that questions are answered with")
    rate: float = option(0.15, "share of document tokens that it recomputes (0.15)")
    samples: int = option(3, "items that are measured, from short to long; 0 counts only (3)")
    rounds: int = option(3, "times that each is measured (3)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate <= 1:
            raise UserError(f"RATE={self.rate} is outside [0, 1]")
        if self.samples < 0 or self.rounds < 1:
            raise UserError("give SAMPLES=0 or more, and ROUNDS=1 or more")


def main(config: PlanConfig) -> None:
    """Count the chunks of all datasets named, and measure each where samples are asked for."""
    selector = selectors.build(config.reuse)
    if selector.oracle:
        raise UserError(f"REUSE={config.reuse} is an oracle: its time means nothing")
    rows, found, below = [], [Survey() for _ in config.codec], []
    for session in begin(config, ensure):
        if config.context == AUTO:
            session = session.behind(selector.context)
        context = session.context.label
        coded = [
            replace(session, config=replace(session.config, store="chunks", codec=[codec]))
            for codec in config.codec
        ]
        here = [survey(each, each.inputs.items, verify=False) for each in coded]
        per_token = [bytes_per_token(each) for each in coded]
        rows.append([session.dataset.name, *counted(here, per_token)])
        for together, each in zip(found, here, strict=True):
            together.add(each)
        if config.samples:
            below += ["", *measured(coded, here[0], config, selector)]
    if len(rows) > 1:
        rows.append(["together", *counted(found, per_token)])
    head = ["dataset", "items", "chunks", "different", "uses", "tokens", "once", "less", "GB item"]
    head += [f"GB {codec}" for codec in config.codec]
    table = columns([head, *rows], ["<", *[">"] * (len(head) - 1)])
    title = f"{session.source.name}, {session.weights.dtype_name}, chunks behind {context}"
    print("\n".join([title, "", *table, "", *wrap(COUNTS, WIDTH), *below]))


def bytes_per_token(session: Session) -> tuple[float, float]:
    """Of KVs as they are, and of those under the session's codec in a chunk of usual length."""
    plain = store.kv_bytes(session.engine.modules, 1)
    return plain, coded_bytes(session, session.codec, TYPICAL) / TYPICAL


def counted(found: Sequence[Survey], per_token: Sequence[tuple[float, float]]) -> list[str]:
    """What the items hold and what of it is kept once, under each codec."""
    first = found[0]
    held = sum(tokens * first.uses[key] for key, tokens in first.tokens.items())
    sizes = [held * per_token[0][0]]
    for each, (plain, under) in zip(found, per_token, strict=True):
        coded = sum(each.tokens[key] for key in each.coded)
        sizes.append(plain * (each.all_tokens - coded) + under * coded)
    return [
        str(first.items),
        str(first.uses.total()),
        str(len(first.tokens)),
        f"{first.uses.total() / len(first.tokens):.1f}",
        str(held),
        str(first.all_tokens),
        f"{100 * (1 - first.all_tokens / held):.0f}%",
        *(f"{size / 1e9:.3f}" for size in sizes),
    ]


def measured(
    sessions: Sequence[Session], found: Survey, config: PlanConfig, selector: BaseSelector
) -> list[str]:
    """What a few items take and save, and what that makes over all of them, in lines."""
    session = sessions[0]
    items = session.inputs.items
    samples = [
        measure(sessions, item, selector, config.rate, config.rounds)
        for item in chosen(session, config.samples)
    ]
    rate = sum(m.tokens for m in samples) / sum(m.precompute_ms for m in samples) * 1e3
    seconds = found.all_tokens / rate
    per_question = found.uses.total() / len(found.tokens) / len(items)
    rows = []
    for codec in config.codec:
        points = [m.points[codec] for m in samples]
        load = sum(point.load_ms for point in points) / len(points)
        reached = sum(point.kv_bytes for point in points) / sum(m.read_ms[codec] for m in samples)
        savings = [mean_saving(items, points, disk) for disk in DISKS]
        pays = [seconds * 1e3 / saving if saving > 0 else None for saving in savings]
        rows.append(
            [
                codec,
                f"{load:.0f}",
                f"{reached / 1e6:.2f}",
                *(f"{saving:.0f}" for saving in savings),
                *("-" if n is None else f"{n:.0f} ({n * per_question:.1f})" for n in pays),
            ]
        )
    full = sum(m.points[config.codec[0]].full_ms for m in samples) / len(samples)
    head = ["codec", "load ms", "GB/s", *(f"saves {_disk(d)}" for d in DISKS)]
    head += [f"pays {_disk(d)}" for d in DISKS]
    return [
        f"{session.dataset.name}: {len(samples)} items measured, {selectors.spec_of(selector)} at "
        f"{config.rate:g}; full prefill {full:.0f} ms in the mean; chunks at {rate:.0f} tokens/s, "
        f"{seconds:.0f} s for all",
        "",
        *columns([head, *rows], ["<", *[">"] * (len(head) - 1)]),
        "",
        *wrap(SAVES, WIDTH),
    ]


def _disk(gb_per_s: float | None) -> str:
    return "here" if gb_per_s is None else f"{gb_per_s:g} GB/s"
