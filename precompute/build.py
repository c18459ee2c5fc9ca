"""Builds the items of one dataset that are missing, damaged or of something else."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data.inputs import Item
from models.atomic import remove_leftovers
from models.chunks.store import folder_of
from models.errors import UserError
from precompute.layouts import Built, Layout, layout_of
from precompute.lock import item_lock
from stage.session import Session

SPARE_BYTES = 64 << 20
POLL_SECONDS = 0.2


@dataclass
class Tally:
    """What became of the items: so many were ``built`` here, in so many seconds."""

    items: int = 0
    built: Built = field(default_factory=Built)
    seconds: float = 0.0
    elsewhere: int = 0


def precompute(session: Session, scores: Sequence[str]) -> None:
    """Build what is missing, damaged or of something else; leave the rest alone.

    Several processes may do so at once, on machines that share the folder too: they share the work.

    Raises
    ------
    UserError : too little room, a folder that cannot be written, NaN among what was computed.
    """
    items = session.inputs.items
    root = session.kv_place
    pending = _pending(session, scores)
    if not pending:
        print(f"precompute: all {len(items)} items are complete in {root}")
        return
    todo, layout = [item for item, _ in pending], layout_of(session, scores)
    layout.survey(todo)
    need, free = layout.bytes(), _free_bytes(session) + layout.given_back()
    reasons = Counter(reason for _, reason in pending)
    print(
        f"precompute: {len(todo)} of {len(items)} items to build "
        f"({', '.join(f'{count} {reason}' for reason, count in reasons.items())}), "
        f"{layout.told()}, {need / 1e9:.2f} GB on disk"
        + (f" ({free / 1e9:.1f} GB free)" if math.isfinite(free) else "")
    )
    if need + SPARE_BYTES > free:
        raise UserError(
            f"{root} needs {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: set LIMIT= to "
            "fewer items, DTYPE=bfloat16, or KVS= to a folder on a larger disk"
        )
    tokens = sum(map(layout.tokens, todo))
    with tqdm(total=tokens, desc="precompute", unit="tok", unit_scale=True, disable=None) as bar:
        tally = share(session, scores, todo, layout, bar)
    if not tally.items:
        print(f"precompute: all {len(todo)} items came from another precompute -> {root}")
        return
    others = f"; {tally.elsewhere} came from another precompute" if tally.elsewhere else ""
    built = tally.built
    chunks = (
        f"{built.new} chunks new and {built.reused} reused, " if built.new + built.reused else ""
    )
    print(
        f"precompute: {tally.items} items, {chunks}{built.tokens} tokens in {tally.seconds:.1f} s "
        f"({built.tokens / tally.seconds:.0f} tokens/s), {built.bytes / 1e9:.2f} GB -> {root}"
        f"{others}"
    )


def share(
    session: Session, scores: Sequence[str], todo: list[Item], layout: Layout, bar: tqdm
) -> Tally:
    """Build each item that nobody else builds; what others hold comes last, and is looked at again.

    Parameters
    ----------
    bar : counts the tokens that are built here; its total loses those that others did.
    """
    tally, queue = Tally(), deque(todo)
    held, told = 0, False  # ``held`` of the queue's last items were just found in others' hands
    while queue:
        if held == len(queue):
            if not told:
                with bar.external_write_mode():
                    print(
                        f"precompute: waiting for {held} of {len(todo)} items, which another "
                        "precompute is building",
                        flush=True,
                    )
            told, held = True, 0
            time.sleep(POLL_SECONDS)
        item = queue.popleft()
        folder, tokens = session.folder(item), layout.tokens(item)
        with item_lock(folder) as ours:
            if not ours:
                queue.append(item)
                held += 1
                continue
            held = 0
            remove_leftovers(folder)
            if session.stored(item).condition(scores) is None:
                tally.elsewhere += 1
                bar.total = (bar.total or 0) - tokens
                bar.refresh()
                continue
            start = time.perf_counter()
            tally.built.add(layout.build(item))
            tally.seconds += time.perf_counter() - start
        tally.items += 1
        bar.update(tokens)
        bar.set_postfix_str(f"{tally.built.bytes / 1e9:.2f} GB")
    return tally


def _pending(session: Session, scores: Sequence[str]) -> list[tuple[Item, str]]:
    """Items to build, each with the reason."""
    found = []
    for item in tqdm(session.inputs.items, "checking", unit="item", leave=False, disable=None):
        folder = session.folder(item)
        reason = session.stored(item).condition(scores)
        if reason:
            found.append((item, reason))
        elif any(folder.glob(".*.tmp")):
            _tidy(folder)
    return found


def _tidy(folder: Path) -> None:
    """Remove what killed runs left beside complete files, unless somebody writes there just now."""
    with contextlib.suppress(UserError), item_lock(folder) as ours:  # a folder may be read-only
        if ours:
            remove_leftovers(folder)


def _free_bytes(session: Session) -> float:
    """Free space where KVs are or will be; nobody knows a remote's."""
    folder = folder_of(session.config.kvs)
    if folder is None:
        return math.inf
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
