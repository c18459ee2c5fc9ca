"""Stage 2: inputs become kvs/<model>/<dataset>/item_<id>/{kvs.pt, surprisal.pt, sinks.pt}.

Run it from the repository root: ``python -m precompute --dataset 2wikimqa``.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.inputs import Item
from models.atomic import remove_leftovers
from models.errors import UserError
from models.kv import store
from models.kv.capture import capture
from stage.options import option, run
from stage.session import ModelConfig, Session, begin

SPARE_BYTES = 64 << 20


@dataclass
class PrecomputeConfig(ModelConfig):
    """Encode every chunk by itself and keep its unrotated keys and its values."""

    surprisal: bool = option(False, "keep each token's surprisal as well (surprisal.pt)")
    sinks: bool = option(False, "keep the attention that each token draws as well (sinks.pt)")

    @property
    def scores(self) -> list[str]:
        """What is kept beside the KVs."""
        return [name for name in store.SCORES if getattr(self, name)]


def main(config: PrecomputeConfig) -> None:
    """Precompute every dataset named."""
    for session in begin(config):
        precompute(session, config)


def precompute(session: Session, config: PrecomputeConfig) -> None:
    """Build what is missing, incomplete or of something else; leave the rest alone."""
    items = session.inputs.items
    pending = [item for item in items if not _done(session, item, config.scores)]
    root = Path(config.kvs) / session.source.name / session.dataset.name
    if not pending:
        print(f"precompute: all {len(items)} items are complete in {root}")
        return
    tokens = sum(len(item.prompt) for item in pending)
    need = store.kv_bytes(session.engine.modules, tokens) + 4 * tokens * len(config.scores)
    free = _free_bytes(root) + sum(_size(session, item) for item in pending)
    print(
        f"precompute: {len(pending)} of {len(items)} items to build, {tokens} tokens, "
        f"{need / 1e9:.2f} GB on disk ({free / 1e9:.1f} GB free)"
    )
    if need + SPARE_BYTES > free:
        raise UserError(
            f"{root} needs {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: set LIMIT= to "
            "fewer items, DTYPE=bfloat16, or KVS= to a folder on a larger disk"
        )
    start, written = time.perf_counter(), 0
    with tqdm(total=tokens, desc="precompute", unit="tok", unit_scale=True, disable=None) as bar:
        for item in pending:
            written += build(session, item, config.scores)
            bar.update(len(item.prompt))
            bar.set_postfix_str(f"{written / 1e9:.2f} GB")
    seconds = time.perf_counter() - start
    print(
        f"precompute: {tokens} tokens in {seconds:.1f} s ({tokens / seconds:.0f} tokens/s), "
        f"{written / 1e9:.2f} GB -> {root}"
    )


def build(session: Session, item: Item, scores: list[str]) -> int:
    """Capture one item and write its files; returns their bytes."""
    captured = capture(session.engine.modules, item.prompt, session.inputs.sink, scores)
    return store.write(session.folder(item), captured, session.expected(item))


def _done(session: Session, item: Item, scores: list[str]) -> bool:
    folder = session.folder(item)
    remove_leftovers(folder)
    return store.is_complete(folder, session.expected(item), scores)


def _size(session: Session, item: Item) -> int:
    """Bytes that an item's present files will give back when they are replaced."""
    return sum(path.stat().st_size for path in session.folder(item).glob("*.pt"))


def _free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


if __name__ == "__main__":
    run(PrecomputeConfig, main, "precompute")
