"""Stage 1: raw rows become token segments, inputs/<model>/<dataset>.jsonl.

Run it from the repository root: ``python -m chunk --dataset 2wikimqa``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm
from transformers import AutoConfig, PreTrainedConfig

from data import datasets, inputs
from data.cli import StageConfig, option, run
from data.rows import load_rows
from data.segments import Splitter, Splitting
from models.errors import UserError
from models.load import check_supported, max_positions
from models.source import fetch, resolve
from models.tokenizer import fingerprint, frame, load_tokenizer


@dataclass
class ChunkConfig(StageConfig):
    """Split a dataset's documents into chunks of tokens, for one model's tokenizer."""

    chunking: str | None = option(None, "token (default) or passage")
    chunk_size: int | None = option(None, "tokens of a chunk, 512 by default")
    max_length: int | None = option(None, "tokens of a prompt; the model's room by default")
    chat: bool | None = option(None, "use the chat template; as the benchmark says by default")
    longbench_dir: str | None = option(None, "folder with LongBench's files, plain or compressed")
    sample: bool = option(True, "allow the built-in sample where LongBench cannot be had")
    only_if_missing: bool = option(False, "keep inputs that exist and fit the options named")


def main(config: ChunkConfig) -> None:
    """Build the inputs, or keep those that fit."""
    dataset = datasets.get(config.dataset)
    source = resolve(config.model)
    path = inputs.item_path(config.inputs, source.name, dataset.name)
    existing = inputs.read_meta(path) if config.only_if_missing and path.is_file() else None
    tokenizer = load_tokenizer(source)
    model_config = fetch(source, AutoConfig.from_pretrained)
    check_supported(model_config)
    chat = dataset.chat if config.chat is None else config.chat
    settings = resolve_settings(config, dataset, model_config, existing)
    framing = frame(tokenizer, model_config, chat)
    meta: dict[str, Any] = {
        "dataset": dataset.name,
        "version": dataset.version,
        "model": source.name,
        "tokenizer": fingerprint(tokenizer),
        "settings": asdict(settings),
        "sink": framing.sink,
    }
    if existing and _fits(existing, meta, config):
        print(f"chunk: {path} has {existing['rows']} items already")
        return
    splitter = Splitter(dataset, tokenizer, framing, settings)
    found = load_rows(dataset, config.limit, config.longbench_dir, config.sample)
    ids = inputs.safe_ids(row["_id"] for row in found.rows)
    rows, truncated = [], 0
    for item_id, row in zip(ids, tqdm(found.rows, "chunk", unit="item", disable=None), strict=True):
        prompt = splitter.prompt(row)
        truncated += len(prompt) == settings.max_length
        rows.append(_line(item_id, row, prompt, tokenizer))
    meta |= {
        "source": found.source,
        "where": found.where,
        "is_sample": found.is_sample,
        "available": found.available,
        "rows": len(rows),
        "truncated": truncated,
    }
    inputs.write(path, rows, meta)
    lengths = sorted(sum(map(len, _segments(row))) for row in rows)
    print(
        f"chunk: {len(rows)} of {found.available} items from the {found.source} -> {path} "
        f"({lengths[len(lengths) // 2]} tokens in the median, {lengths[-1]} at most, "
        f"{truncated} truncated)"
    )


def resolve_settings(
    config: ChunkConfig,
    dataset: datasets.Dataset,
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

    settings = Splitting(
        chunking=pick("chunking", "token"),
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


def _fits(existing: dict[str, Any], wanted: dict[str, Any], config: ChunkConfig) -> bool:
    """Whether inputs that exist are what this call would build, or hold it."""
    enough = existing["rows"] >= min(config.limit or 1, existing["available"])
    sample_unwanted = existing["is_sample"] and (not config.sample or config.longbench_dir)
    return enough and not sample_unwanted and all(existing[k] == wanted[k] for k in wanted)


def _line(item_id: str, row: dict[str, Any], prompt: Any, tokenizer: Any) -> dict[str, Any]:
    prefix, *chunks, question = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    return {
        "id": item_id,
        "chunks": [tokenizer.decode(chunk) for chunk in chunks],
        "question": row["input"],
        "answers": row["answers"],
        "all_classes": row["all_classes"],
        "length": row["length"],
        "tokens": {"prefix": prefix, "chunks": chunks, "question": question},
    }


def _segments(line: dict[str, Any]) -> list[list[int]]:
    tokens = line["tokens"]
    return [tokens["prefix"], *tokens["chunks"], tokens["question"]]


if __name__ == "__main__":
    run(ChunkConfig, main, "chunk")
