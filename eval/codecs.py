"""``python -m eval.codecs``: what each codec's bits cost in quality, with and without recomputing.

Every item's KVs go through every codec in memory, chunk by chunk, as they would through a store on
disk; then all methods run over them. Nothing is written but what was found, item by item, so a run
that was cut short goes on where it ended. ``CODEC=`` in a sweep says the same of stored KVs.
"""

from __future__ import annotations

import fcntl
import json
import sys
from chunk.build import ensure
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from torch import Tensor
from tqdm import tqdm

from data.inputs import Item
from eval import gating
from eval.analysis import overlap
from eval.analysis.stats import paired
from eval.config import SweepConfig
from eval.evaluator import Evaluator
from eval.folder import digest
from eval.runner import check_layers, check_metrics, check_room, run_identity, runs_root
from eval.variants import Variant, make_variants, method_options
from models import codecs
from models.atomic import disk_errors
from models.codecs import BaseCodec
from models.errors import UserError
from models.prompt import Prompt
from models.sealed import parse, seal, unseal
from precompute.build import precompute
from stage.columns import columns
from stage.options import command, option
from stage.session import Session, begin

Records = dict[str, list[dict[str, Any]]]  # by item
KEPT = ("kl_first", "kl_mean", "top1_agreement", "score", "selected", "documents", "tokens")


@dataclass
class CodecsConfig(SweepConfig):
    """Run methods and rates over KVs that went through each codec."""

    codecs: list[str] = option(
        [codecs.NONE, "bf16", "fp8", "int8", "k8v4", "int4"],
        "codecs, each with options of its own after a colon; the first is compared with",
    )
    reuse: list[str] = option(["full", "blend"], "methods, as in eval (full blend)")
    rate: list[float] = option([0.15], "shares of document tokens (0.15)")
    deviation: bool = option(False, "not measured here")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout != "item":
            raise UserError("here KVs are kept as they are: name CODECS=, not STORE= or CODEC=")


def main(config: CodecsConfig) -> None:
    """Run all of it on every dataset named; each ends with a table."""
    check_metrics(config)
    variants = make_variants(config)
    built = {codecs.spec_of(codec): codec for codec in map(codecs.build, config.codecs)}
    for session in begin(config, ensure):
        records, path = run(session, config, variants, built)
        text = "\n".join(table(records, list(built), config.seed))
        path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        said = session.weights
        print(
            f"\n{session.source.name} on {session.dataset.name}: {len(records)} items, "
            f"{median_tokens(records)} tokens in the median; {said.dtype_name}\n\n{text}\n\n{path}"
        )


def run(
    session: Session, config: CodecsConfig, variants: list[Variant], built: dict[str, BaseCodec]
) -> tuple[Records, Path]:
    """Records of every item, and the file that holds them, a line an item."""
    evaluator = Evaluator(session, config, variants)
    check_room(session, evaluator.max_new_tokens)
    check_layers(session, variants)
    for source in evaluator.sources.values():
        precompute(source.session, sorted({*config.scores, *source.needs}))
        gating.checked(source.session)
    identity = {
        "methods": [run_identity(session, evaluator, variant) for variant in variants],
        "codecs": {name: [codec.version, codecs.code_of(codec)] for name, codec in built.items()},
        "machine": session.weights.machine,
    }
    path = runs_root(session) / f"codecs-{digest(identity)}.jsonl"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+b")
    with opened as file:
        records = kept(file, path, config.fresh)
        todo = [item for item in session.inputs.items if item.id not in records]
        for item in todo:
            evaluator.check(item)
        for item in tqdm(todo, session.dataset.name, unit="item", disable=None):
            records[item.id] = one(evaluator, item, variants, built)
            try:
                sealed = seal({"id": item.id, "records": records[item.id]})
            except ValueError as error:
                raise UserError(f"item {item.id} cannot be kept: {error}") from None
            with disk_errors(path):
                file.write(json.dumps(sealed).encode() + b"\n")
                file.flush()
    return records, path


def kept(file: IO[bytes], path: Path, fresh: bool) -> Records:
    """What an earlier call found, the file taken for this process.

    A line that a killed call left half written is cut off. Another damaged one is told, and its
    item is done again.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} is in use by another call; wait for it") from None
    file.seek(0)
    lines = [] if fresh else file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    file.truncate(sum(map(len, lines)))
    records = {}
    for number, line in enumerate(lines, 1):
        try:
            found = unseal(parse(line))
            records[found["id"]] = found["records"]
        except ValueError as error:
            print(f"codecs: {path}: line {number} is left out: {error}", file=sys.stderr)
    return records


def one(
    evaluator: Evaluator, item: Item, variants: list[Variant], built: dict[str, BaseCodec]
) -> list[dict[str, Any]]:
    """One item under every codec and method."""
    reference = evaluator.reference(item)
    plain: dict[Any, Tensor] = {}
    for where, stored in reference.stored.items():
        assert isinstance(stored.memory, Tensor), "files of whole items were read"
        plain[where] = stored.memory
    found = []
    for name, codec in built.items():
        coded: dict[Any, dict[str, float]] = {}
        for where, stored in reference.stored.items():
            stored.memory, coded[where] = through(codec, plain[where], item.prompt)
        evaluator.through = codec
        pending = [(variant, evaluator.begin(item, variant, reference)) for variant in variants]
        evaluator.advance(to_the_end=True)
        for variant, begun in pending:
            record = evaluator.complete(begun)
            about = {"codec": name, "method": variant.spec, "rate": variant.rate}
            found.append(about | coded.get(variant.where, {}) | {k: record[k] for k in KEPT})
    return found


def through(codec: BaseCodec, kv: Tensor, prompt: Prompt) -> tuple[Tensor, dict[str, float]]:
    """KVs ``[2, L, H_kv, N, D]`` with every chunk written and read by a codec.

    The prefix and the question stay as they are: all items of a dataset share the one, and no
    method looks at the other's cached rows.

    Returns
    -------
    The KVs, and bytes and milliseconds of decoding by token of the chunks.
    """
    out, nbytes, seconds = kv.clone(), 0, 0.0
    layers = kv.shape[1]
    for start, end in prompt.chunks:
        for kind in range(2):
            for layer in range(layers):
                rows = kv[kind, layer, :, start:end]
                parts = codec.encode(kind, layer, layers, rows)
                nbytes += sum(part.nbytes for part in parts.values())
                begun = perf_counter()
                codec.decode(kind, parts, out[kind, layer, :, start:end])
                seconds += perf_counter() - begun
    tokens = max(1, sum(end - start for start, end in prompt.chunks))
    return out, {"bytes": nbytes / tokens, "decode_ms": seconds * 1e3 / tokens}


def table(records: Records, names: list[str], seed: int) -> list[str]:
    """A row a codec and method: what it takes, and what it costs beside the first codec."""
    rows: dict[tuple[str, str, float | None], list[dict[str, Any]]] = {
        (record["codec"], record["method"], record["rate"]): []
        for record in next(iter(records.values()))
    }
    for of_item in records.values():
        for record in of_item:
            rows[record["codec"], record["method"], record["rate"]].append(record)
    head = [
        "method", "codec", "bytes/token", "decode ms/1k", "KL answer", "KL - first", "95% interval",
        "agree %", "score", "same chosen %",
    ]  # fmt: skip
    methods = dict.fromkeys((method, rate) for _, method, rate in rows)
    cells = [
        line(rows[name, method, rate], rows[names[0], method, rate], seed)
        for method, rate in methods
        for name in names
    ]
    return columns([head, *cells], ["<", "<", *[">"] * (len(head) - 2)])


def line(found: list[dict[str, Any]], first: list[dict[str, Any]], seed: int) -> list[str]:
    """One row's cells."""
    kl, base = ([record["kl_mean"] for record in each] for each in (found, first))
    apart = paired([a - b for a, b in zip(kl, base, strict=True)], seed)
    low, high = apart["ci95"]
    scores = [record["score"] for record in found if record["score"] is not None]
    masks = [
        [overlap.decode(r["selected"], r["documents"]) for r in each] for each in (found, first)
    ]
    same = [s for a, b in zip(*masks, strict=True) if (s := overlap.share(a, b)) is not None]
    head = found[0]
    rate = "" if head["rate"] is None else f" {head['rate']:g}"
    return [
        f"{head['method']}{rate}",
        head["codec"],
        f"{mean([r['bytes'] for r in found]):.0f}" if "bytes" in head else "-",
        f"{mean([r['decode_ms'] for r in found]) * 1e3:.0f}" if "bytes" in head else "-",
        f"{mean(kl):.4f}",
        f"{apart['estimate']:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        f"{mean([r['top1_agreement'] for r in found]) * 100:.1f}",
        f"{mean(scores):.1f}" if scores else "-",
        f"{mean(same) * 100:.1f}" if same else "-",
    ]


def mean(values: list[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def median_tokens(records: Records) -> int:
    """Tokens of the prompt in the middle."""
    lengths = sorted(found[0]["tokens"] for found in records.values())
    return int(lengths[len(lengths) // 2])


if __name__ == "__main__":
    sys.exit(command("codecs", CodecsConfig, main, more=method_options))
