"""One dataset under several methods: folders, warm-up, items, results."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.inputs import Item
from eval import gating
from eval.analysis.summary import summarize
from eval.config import EvalConfig
from eval.evaluator import Evaluator
from eval.folder import RunFolder
from eval.item.kept import KeptAnswers
from eval.item.pending import Pending
from eval.metrics import scores
from eval.report import table as report
from eval.variants import Variant, Where
from models import codecs, correctors, eviction
from models.code import code_digest
from models.decoding.evicting import watched
from models.errors import UserError
from models.kv import pinned, store
from models.kv.keys import described
from precompute.build import precompute
from stage import environment
from stage.ledger import line, shares
from stage.session import Session

LABEL = 80  # characters of a method in a folder's name: its options may hold a whole path
# What a record depends on, besides the method's own file.
MEASURED_BY = (
    "models.engine",
    "models.flops",
    "models.kv.capture",
    "models.kv.chunked",
    "models.kv.store",
    "models.decoding.leaving",
    "models.linear.layers",
    "eval.analysis.fidelity",
    "eval.metrics.decisions",
    "eval.metrics.scores",
)
HERE = Path(__file__).parent
MEASURING = [HERE / "evaluator.py", *sorted((HERE / "item").glob("*.py"))]
# Taken while it is being imported: what is edited during a long run is not what made its records.
CODE = code_digest(*MEASURED_BY, files=MEASURING)
# An old picture is drawn anew where this differs.
DRAWN_BY = code_digest(files=[HERE / "report" / "heatmap.py"])
Runs = list[tuple[Variant, RunFolder]]
Waiting = deque[tuple[Pending, RunFolder]]
Warm = set[tuple[str, float | None]]


def evaluate_dataset(
    session: Session, config: EvalConfig, variants: Sequence[Variant], warm: Warm
) -> list[dict[str, Any]]:
    """Results of all methods; finished items of earlier runs are not done again.

    Parameters
    ----------
    warm : methods that this process has run already; added to.
    """
    evaluator = Evaluator(session, config, variants)
    check_room(session, evaluator.max_new_tokens)
    check_layers(session, variants)
    items = session.inputs.items
    runs = [(variant, folder(session, evaluator, variant)) for variant in variants]
    if not config.fresh and all(found.holds([item.id for item in items]) for _, found in runs):
        print(f"eval: {session.dataset.name}: all {len(items)} items are finished", flush=True)
    else:
        for source in evaluator.sources.values():
            precompute(source.session, sorted({*config.scores, *source.needs}))
        for item in items:
            evaluator.check(item)
    gates: dict[Where | None, dict[str, Any]] = {
        name: gating.checked(source.session) for name, source in evaluator.sources.items()
    }
    if not gates:
        gates[None] = gating.checked(session)
    with ExitStack() as stack:
        for _, run_folder in runs:
            stack.enter_context(run_folder.opened(config.fresh))
        evaluate(session, evaluator, runs, warm)
        results = []
        for variant, run_folder in runs:
            gate = gates.get(variant.where) or next(iter(gates.values()))
            results.append(conclude(session, evaluator, variant, run_folder, gate))
            if config.cold:
                print(f"eval: {session.dataset.name} {variant.spec} -> {run_folder.path}")
    return results


def check_metrics(config: EvalConfig) -> None:
    """Refuse an unknown metric before anything is loaded."""
    for dataset in config.datasets():
        scores.check(dataset.metric)


def check_room(session: Session, max_new_tokens: int) -> None:
    """Refuse items whose answer would run past the model's positions."""
    longest = max(session.inputs.items, key=lambda item: len(item.prompt))
    holds = session.weights.max_positions
    room = holds - max_new_tokens
    if len(longest.prompt) > room:
        prompts = [item.prompt for item in session.inputs.items]
        bare = max(len(p) - p.documents[1] + p.documents[0] for p in prompts)
        shorter = f", or MAX_LENGTH={room}" if room > bare else ""
        raise UserError(
            f"MAX_NEW_TOKENS={max_new_tokens} does not fit: item {longest.id} has "
            f"{len(longest.prompt)} tokens and the model holds {holds}; give "
            f"{holds - len(longest.prompt)} or less{shorter}"
        )


def check_layers(session: Session, variants: Sequence[Variant]) -> None:
    """Refuse a method that looks at a layer that the model lacks, before a folder is made."""
    last = session.weights.layers - 1
    for variant in variants:
        if variant.selector and variant.selector.deepest > last:
            raise UserError(
                f"REUSE={variant.spec} looks at layer {variant.selector.deepest}: the model has "
                f"layers 0 to {last}"
            )


def run_identity(session: Session, evaluator: Evaluator, variant: Variant) -> dict[str, Any]:
    """Everything that a run's result depends on, besides the machine."""
    config = evaluator.config
    behind = evaluator.sources[variant.where].session if variant.where else None
    return {
        **identity_of(session, evaluator),
        "dataset": session.dataset.name,
        "version": session.dataset.version,
        "entry": session.inputs.recipe.entry,
        "source": session.inputs.meta.source,
        "inputs": session.inputs.fingerprint(),
        "items": len(session.inputs.items),
        "chunking": session.inputs.chunk_meta,
        "context": behind.context.label if behind else None,
        "fronts": behind.fronts_digest if behind else None,
        "store": session.config.layout,
        "codec": variant.codec if behind else None,
        "codec_is": described(behind.codec) if behind else None,
        "codec_code": codecs.code_of(behind.codec) if behind else None,
        "method": variant.spec,
        "options": variant.options,
        "seed": config.seed,
        "cold": config.cold,
        "deviation": config.deviation,
        "method_code": variant.code,
        "corrector": correctors.spec_of(variant.corrector),
        "corrector_options": variant.corrector.identity() if variant.corrector else {},
        "corrector_code": variant.corrector_code,
        "drop": eviction.spec_of(variant.policy),
        "drop_options": variant.policy.identity() if variant.policy else {},
        "drop_code": variant.policy_code,
    }


def folder(session: Session, evaluator: Evaluator, variant: Variant) -> RunFolder:
    """The run's folder, named from every option that changes its result."""
    settings = session.inputs.settings
    rate = "" if variant.rate is None else f"-r{variant.rate:g}"
    method = re.sub(r"[^A-Za-z0-9=._]+", "+", variant.spec)[:LABEL]
    split = settings.chunking + (str(settings.chunk_size) if settings.chunking == "token" else "")
    label = f"{method}{rate}-{split}-n{len(session.inputs.items)}"
    identity = run_identity(session, evaluator, variant)
    return RunFolder(runs_root(session), label, identity, session.weights.machine)


def identity_of(session: Session, evaluator: Evaluator) -> dict[str, Any]:
    """What a full prefill's answer to some prompt depends on, besides the machine."""
    weights = session.weights
    return {
        "model": session.source.name,
        "weights": weights.known.fingerprint,
        "tokenizer": session.tokenizer_fingerprint,
        "max_new_tokens": evaluator.max_new_tokens,
        "stops": sorted(evaluator.answering.stops),
        "dtype": weights.dtype_name,
        "device": weights.device.type,
        "backend": weights.backend,
        **({"fast": weights.fast} if weights.fast else {}),
        "code": CODE,
    }


def runs_root(session: Session) -> Path:
    """The folder of the dataset's runs."""
    return Path(session.config.outputs) / session.source.name / session.dataset.name


def evaluate(session: Session, evaluator: Evaluator, runs: Runs, warm: Warm) -> None:
    """Item by item: the full prefill once, then every method that lacks this item."""
    items = session.inputs.items
    pending = {item.id: [run for run in runs if item.id not in run[1].records] for item in items}
    todo = [item for item in items if pending[item.id]]
    if not todo:
        return
    done = sum(len(run_folder.records) for _, run_folder in runs)
    if done:
        print(f"eval: resuming, {done} of {len(items) * len(runs)} results are there")
    print(f"eval: {session.dataset.name}: {len(todo)} items, {len(runs)} methods", flush=True)
    longest = max(len(item.prompt) for item in items)
    session.engine.watches = evaluator.config.deviation
    policies = [variant.policy for variant, _ in runs if variant.policy]
    session.engine.observes = max(map(watched, policies), default=0)
    session.engine.cache.reserve(longest + evaluator.max_new_tokens)
    lengths = {len(item.prompt) for item in todo}
    sizes = [store.kv_bytes(session.engine.modules, length) for length in lengths]
    if session.engine.device.type == "cuda":  # chunks come through memory as they lie on disk
        sizes += [s.stored(item).nbytes for s in evaluator.sources.values() for item in todo]
    pinned.warm(sizes, session.engine.device)
    unfinished = [variant for variant, found in runs if len(found.records) < len(items)]
    warm_up(evaluator, max(todo, key=lambda item: len(item.prompt)), unfinished, warm)
    evaluator.ledger.restart()
    if not evaluator.config.fresh:
        identity = {**identity_of(session, evaluator), "machine": session.weights.machine}
        evaluator.answering.kept = KeptAnswers(runs_root(session).parent, identity)
    waiting: Waiting = deque()
    with tqdm(todo, session.dataset.name, unit="item", disable=None) as bar:
        try:
            for item in bar:
                evaluate_item(evaluator, item, pending[item.id], waiting)
                evaluator.ledger.items += 1
                bar.set_postfix_str(shares(evaluator.ledger.throughput()))
        except UserError:
            with suppress(UserError):  # the first trouble is the one to tell
                settle(evaluator, waiting, to_the_end=True)
            raise
        settle(evaluator, waiting, to_the_end=True)
    print(f"eval: {session.dataset.name}: {line(evaluator.ledger.throughput())}", flush=True)


def evaluate_item(evaluator: Evaluator, item: Item, runs: Runs, waiting: Waiting) -> None:
    """One item under these methods; answers may wait to be decoded beside those of others."""
    with ExitStack() as held:
        for source in evaluator.sources.values():
            held.enter_context(source.stored(item).held())
        reference = evaluator.reference(item)
        # Policies on the full prefill go first, while the cache holds it.
        for variant, run_folder in sorted(runs, key=lambda run: run[0].selector is not None):
            waiting.append((evaluator.begin(item, variant, reference), run_folder))
            settle(evaluator, waiting)


def settle(evaluator: Evaluator, waiting: Waiting, to_the_end: bool = False) -> None:
    """Take answers further, and keep what is complete, in the order in which it was begun."""
    evaluator.advance(to_the_end)
    while waiting and waiting[0][0].done:
        pending, run_folder = waiting.popleft()
        run_folder.append(evaluator.complete(pending))


def warm_up(evaluator: Evaluator, item: Item, variants: list[Variant], warm: Warm) -> None:
    """Run every method once and throw it away: kernels and their choices are warm then.

    On CUDA every rate of it, since the number of rows decides which kernels are taken.
    """
    by_rate = evaluator.engine.device.type == "cuda"
    cold = {(v.spec, v.rate if by_rate else None): v for v in reversed(variants)}
    todo = {key: variant for key, variant in cold.items() if key not in warm}
    if todo:
        reference = evaluator.reference(item)
    for variant in sorted(todo.values(), key=lambda variant: variant.selector is not None):
        prefill = reference.prefill
        if variant.selector:
            prefill = evaluator.fuse(item, variant, reference)[1]
        if variant.policy:
            evaluator.answering.warm_up(variant.policy, prefill, reference)
    warm.update(todo)


def conclude(
    session: Session,
    evaluator: Evaluator,
    variant: Variant,
    run_folder: RunFolder,
    gate: dict[str, Any],
) -> dict[str, Any]:
    """Write ``result.json`` and what people look at; where nothing was run, only what changed."""
    records = [run_folder.records[item.id] for item in session.inputs.items]
    before = run_folder.result()
    if before is None or run_folder.appended:
        where = where_run(session, evaluator)
    else:
        where = {name: before.get(name) for name in ("environment", "memory_mb", "throughput")}
    result = {
        "note": session.inputs.note,
        "config": run_folder.config,
        "revisions": sorted({record.get("kvfuse", "unknown") for record in records}),
        "oracle": variant.oracle,
        "folder": str(run_folder.path),
        "inputs": session.inputs.meta.model_dump(),
        "gate": gate,
        **where,
        **summarize(records, session.dataset, evaluator.config.seed),
        "drawn_by": DRAWN_BY,
        "items": records,
    }
    picture = run_folder.path / "heatmap.png"
    if session.dataset.suite == "needle" and not (result == before and picture.is_file()):
        from eval.report import heatmap  # brings matplotlib in, which nothing else needs

        title = f"Needle in a haystack: {session.source.name}, {report.label(result)}"
        heatmap.draw(records, title, picture)
    run_folder.finish(result, report.details(result))
    return result


def where_run(session: Session, evaluator: Evaluator) -> dict[str, Any]:
    """The machine, the software and the memory of what was just run."""
    weights = session.weights
    longest = max(len(item.prompt) for item in session.inputs.items)
    kv_bytes = store.kv_bytes(session.engine.modules, longest)
    memory = environment.memory(
        session.loaded.model,
        weights.device,
        kv_bytes,
        evaluator.observes,
        session.engine.together.peak,
    )
    return {
        "environment": environment.describe(
            weights.machine, weights.device, weights.dtype, weights.backend, weights.head_dim
        ),
        "memory_mb": memory,
        "throughput": evaluator.ledger.throughput(),
    }
