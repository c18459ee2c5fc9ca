"""One dataset under several methods: folders, warm-up, items, results."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data import environment
from data.inputs import Item
from data.session import Session
from eval import gating, report
from eval.config import EvalConfig
from eval.folder import RunFolder
from eval.items import Evaluator
from eval.summary import summarize
from models import store
from models.errors import UserError
from models.selectors import FULL_PREFILL


def evaluate_dataset(session: Session, config: EvalConfig, warm: set[str]) -> list[dict[str, Any]]:
    """Results of all methods; finished items of earlier runs are not done again.

    Parameters
    ----------
    warm : methods that this process has run already; added to.
    """
    evaluator = Evaluator(session, config)
    items = session.inputs.items
    check_room(session, evaluator.max_new_tokens)
    check_layer(session, config.check_layer)
    if any(method != FULL_PREFILL for method in config.reuse):
        for item in items:
            evaluator.file(item).check()
    gate = gating.checked(session)
    with ExitStack() as stack:
        runs = {
            method: stack.enter_context(folder(session, evaluator, method).opened(config.fresh))
            for method in config.reuse
        }
        evaluate(session, evaluator, runs, warm)
        results = []
        for method, run_folder in runs.items():
            result = conclude(session, evaluator, run_folder, gate)
            run_folder.finish(result, report.details(result))
            if session.dataset.suite == "needle":
                from eval import heatmap  # brings matplotlib in, which nothing else needs

                title = f"Needle in a haystack: {session.source.name}, {report.label(result)}"
                heatmap.draw(result["items"], title, run_folder.path / "heatmap.png")
            results.append(result)
            print(f"eval: {session.dataset.name} {method} -> {run_folder.path}")
    return results


def check_room(session: Session, max_new_tokens: int) -> None:
    """Refuse items whose answer would run past the model's positions."""
    longest = max(session.inputs.items, key=lambda item: len(item.prompt))
    room = session.loaded.max_positions - max_new_tokens
    if len(longest.prompt) > room:
        raise UserError(
            f"item {longest.id} has {len(longest.prompt)} tokens; with "
            f"MAX_NEW_TOKENS={max_new_tokens} the model holds {max(room, 0)}: lower it"
            + (f", or rebuild the inputs: make chunk MAX_LENGTH={room}" if room > 0 else "")
        )


def check_layer(session: Session, layer: int) -> None:
    """Refuse a check layer that the model lacks, before a folder is made for the run."""
    last = len(session.engine.modules.layers) - 1
    if layer > last:
        raise UserError(f"CHECK_LAYER={layer} does not exist: the model has layers 0 to {last}")


def folder(session: Session, evaluator: Evaluator, method: str) -> RunFolder:
    """The run's folder, named from every option that changes its result."""
    config = evaluator.config
    options = config.options(method)
    settings = session.inputs.settings
    identity = {
        "model": session.source.name,
        "weights": session.loaded.fingerprint,
        "tokenizer": session.tokenizer_fingerprint,
        "dataset": session.dataset.name,
        "version": session.dataset.version,
        "source": session.inputs.meta["source"],
        "inputs": session.inputs.fingerprint(),
        "items": len(session.inputs.items),
        "chunking": session.inputs.chunk_meta,
        "method": method,
        "options": options,
        "max_new_tokens": evaluator.max_new_tokens,
        "seed": config.seed,
        "dtype": session.engine.modules.dtype_name,
        "device": session.loaded.device.type,
        "backend": session.engine.backend,
    }
    rate = f"-r{options['rate']:g}" if "rate" in options else ""
    split = settings.chunking + (str(settings.chunk_size) if settings.chunking == "token" else "")
    label = f"{method}{rate}-{split}-n{len(session.inputs.items)}"
    root = Path(config.outputs) / session.source.name / session.dataset.name
    return RunFolder(root, label, identity, environment.machine(session.loaded.device))


def evaluate(
    session: Session, evaluator: Evaluator, runs: dict[str, RunFolder], warm: set[str]
) -> None:
    """Item by item: the full prefill once, then every method that lacks this item."""
    items = session.inputs.items
    pending = {
        item.id: [
            method for method, run_folder in runs.items() if item.id not in run_folder.records
        ]
        for item in items
    }
    todo = [item for item in items if pending[item.id]]
    if not todo:
        return
    done = sum(len(run_folder.records) for run_folder in runs.values())
    if done:
        print(f"eval: resuming, {done} of {len(items) * len(runs)} results are there")
    longest = max(len(item.prompt) for item in items)
    session.engine.cache.reserve(longest + evaluator.max_new_tokens)
    warm_up(evaluator, todo[0], {*pending[todo[0].id]} - warm)
    warm.update(runs)
    for item in tqdm(todo, session.dataset.name, unit="item", disable=None):
        reference = evaluator.reference(item)
        for method in pending[item.id]:
            runs[method].append(evaluator.record(item, method, reference))


def warm_up(evaluator: Evaluator, item: Item, methods: set[str]) -> None:
    """Run everything once and throw it away: kernels and their choices are warm then."""
    if methods:
        evaluator.reference(item)
    for method in methods:
        if method != FULL_PREFILL:
            evaluator.fuse(item, method)


def conclude(
    session: Session, evaluator: Evaluator, run_folder: RunFolder, gate: dict[str, Any]
) -> dict[str, Any]:
    """``result.json`` of one run."""
    items = session.inputs.items
    records = [run_folder.records[item.id] for item in items]
    longest = max(len(item.prompt) for item in items)
    summary = summarize(records, session.dataset, evaluator.config.seed)
    return {
        "note": session.inputs.note,
        "config": run_folder.config,
        "environment": environment.describe(session.loaded, session.engine),
        "inputs": session.inputs.meta,
        "gate": gate,
        "memory_mb": environment.memory(
            session.loaded, store.kv_bytes(session.engine.modules, longest)
        ),
        **summary,
        "items": records,
    }
