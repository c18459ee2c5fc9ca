"""Stage 1: raw rows become token segments, inputs/<model>/<dataset>.jsonl.

Run it from the repository root: ``python -m chunk --dataset 2wikimqa``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from data import datasets, inputs
from data.datasets import Dataset
from data.request import Request
from data.row import Row
from data.rows import load_rows
from data.segments import Splitter, Splitting
from models.errors import UserError
from models.load.source import ModelSource, fetch, resolve
from models.load.tokenizer import fingerprint, frame, load_tokenizer
from models.load.weights import check_supported, max_positions
from models.prompt import Prompt
from stage.options import StageConfig, option, run

# The options that generated rows depend on, by the source that generates them.
GENERATED = {
    "needle": ("lengths", "depths", "haystack", "data_seed"),
    "ruler": ("lengths", "haystack", "data_seed", "ruler_dir"),
}


@dataclass
class ChunkConfig(StageConfig):
    """Split a dataset's documents into chunks of tokens, for one model's tokenizer."""

    chunking: str | None = option(None, "token (default) or passage")
    chunk_size: int | None = option(None, "tokens of a chunk, 512 by default")
    max_length: int | None = option(None, "tokens of a prompt; the model's room by default")
    chat: bool | None = option(None, "use the chat template; as the benchmark says by default")
    longbench_dir: str | None = option(None, "folder with LongBench's files, plain or compressed")
    ruler_dir: str | None = option(None, "folder with files of RULER's own generator")
    lengths: list[int] = option([], "prompt lengths of generated rows; the model's reach else")
    depths: list[float] = option([], "needle depths in percent; 0 25 50 75 100 by default")
    haystack: str | None = option(None, "folder of text for generated rows; essays by default")
    data_seed: int | None = option(None, "seed of generated rows, 0 by default")
    sample: bool = option(True, "allow the built-in sample where LongBench cannot be had")
    only_if_missing: bool = option(False, "keep inputs that exist and fit the options named")


def main(config: ChunkConfig) -> None:
    """Build the inputs of every dataset named, or keep those that fit."""
    source = resolve(config.model)
    chosen = datasets.expand(config.dataset)
    tokenizer = load_tokenizer(source)
    model_config = fetch(source, AutoConfig.from_pretrained)
    check_supported(model_config)
    for dataset in chosen:
        chunk(config, dataset, source, tokenizer, model_config)


def chunk(
    config: ChunkConfig,
    dataset: Dataset,
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
) -> None:
    """One dataset's inputs."""
    path = inputs.item_path(config.inputs, source.name, dataset.name)
    existing = inputs.read_meta(path) if config.only_if_missing and path.is_file() else None
    settings = resolve_settings(config, dataset, model_config, existing)
    framing = frame(tokenizer, model_config, settings.chat)
    generation = resolve_generation(config, dataset, existing)
    meta: dict[str, Any] = {
        "dataset": dataset.name,
        "version": dataset.version,
        "model": source.name,
        "tokenizer": fingerprint(tokenizer),
        "settings": asdict(settings),
        "generation": generation,
        "sink": framing.sink,
    }
    if existing and _fits(existing, meta, config, dataset):
        print(f"chunk: {path} has {existing['rows']} items already")
        return
    build(path, config, meta, Splitter(dataset, tokenizer, framing, settings))


def build(path: Path, config: ChunkConfig, meta: dict[str, Any], splitter: Splitter) -> None:
    """Find the rows, split them, and write both files."""
    dataset, settings, generation = splitter.dataset, splitter.settings, meta["generation"]
    request = Request(
        measure=splitter.measure,
        room=settings.max_length,
        limit=config.limit,
        longbench_dir=config.longbench_dir,
        sample=config.sample,
        lengths=tuple(generation.get("lengths") or ()),
        depths=tuple(generation.get("depths") or ()),
        haystack=generation.get("haystack"),
        ruler_dir=generation.get("ruler_dir"),
        seed=generation.get("data_seed") or 0,
    )
    found = load_rows(dataset, request)
    ids = inputs.safe_ids(row.id for row in found.rows)
    rows, sizes, truncated = [], [], 0
    bar = tqdm(found.rows, dataset.name, unit="item", disable=None)
    for item_id, row in zip(ids, bar, strict=True):
        prompt, lost = splitter.split(row)
        truncated += lost > 0
        sizes.append(len(prompt))
        rows.append(_line(item_id, row, prompt, splitter.tokenizer))
    if not rows:
        raise UserError(f"{dataset.name} has no rows; give another LIMIT, LENGTHS or folder")
    meta |= {
        "source": found.source,
        "where": found.where,
        "is_sample": found.is_sample,
        "available": found.available,
        "rows": len(rows),
        "truncated": truncated,
    }
    inputs.write(path, rows, meta)
    print(
        f"chunk: {dataset.name}: {len(rows)} of {found.available} items from the {found.source} "
        f"-> {path} ({median(sizes):.0f} tokens in the median, {max(sizes)} at most, "
        f"{truncated} truncated)"
    )


def resolve_settings(
    config: ChunkConfig,
    dataset: Dataset,
    model_config: PreTrainedConfig,
    existing: dict[str, Any] | None,
) -> Splitting:
    """Settings named on the command line, else those of the inputs that exist, else the defaults.

    Raises
    ------
    UserError : the model's positions cannot hold the prompt and its answer.
    """
    before = (existing or {}).get("settings", {})
    room = max_positions(model_config) - dataset.max_new_tokens

    def pick(name: str, default: Any) -> Any:
        named = getattr(config, name)
        return named if named is not None else before.get(name, default)

    chunking = pick("chunking", "token")
    if chunking == "passage" and dataset.passage_pattern is None:
        print(f"chunk: {dataset.name} has no passages, so it is split by tokens")
        chunking = "token"
    settings = Splitting(
        chunking=chunking,
        chunk_size=pick("chunk_size", 512),
        max_length=pick("max_length", room),
        chat=pick("chat", dataset.chat),
    )
    if not 1 <= settings.max_length <= room:
        raise UserError(
            f"MAX_LENGTH={settings.max_length} does not fit: {config.model} has room for {room} "
            f"prompt tokens beside {dataset.max_new_tokens} of answer; give 1 to {room}"
        )
    return settings


def resolve_generation(
    config: ChunkConfig, dataset: Dataset, existing: dict[str, Any] | None
) -> dict[str, Any]:
    """What generated rows are made from; nothing for rows that are read."""
    before = (existing or {}).get("generation", {})
    settings = {}
    for name in GENERATED.get(dataset.source, ()):
        named = getattr(config, name)
        settings[name] = before.get(name) if named in (None, []) else named
    return settings


def _fits(
    existing: dict[str, Any], wanted: dict[str, Any], config: ChunkConfig, dataset: Dataset
) -> bool:
    """Whether inputs that exist are what this call would build, or hold it."""
    enough = existing["rows"] >= min(config.limit or 1, existing["available"])
    folder = config.longbench_dir
    read = dataset.source == "longbench"
    elsewhere = read and folder and not existing["where"].startswith(str(Path(folder).expanduser()))
    unwanted = existing["is_sample"] and not config.sample
    same = all(existing.get(name) == wanted[name] for name in wanted)
    return bool(enough and same and not elsewhere and not unwanted)


def _line(
    item_id: str, row: Row, prompt: Prompt, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    prefix, *chunks, question = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    return {
        **row.details,
        "id": item_id,
        "chunks": [tokenizer.decode(chunk) for chunk in chunks],
        "question": row.question,
        "answers": row.answers,
        "all_classes": row.all_classes,
        "length": row.length,
        "tokens": {"prefix": prefix, "chunks": chunks, "question": question},
    }


if __name__ == "__main__":
    run(ChunkConfig, main, "chunk")
