"""A dataset's inputs: found by what they are made from, built where they are missing."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from data import inputs
from data.dataset import Dataset
from data.inputs import Inputs, Recipe
from data.request import Request
from data.row import Row
from data.rows import digest, load_rows
from data.segments import Splitter, Splitting
from models.errors import UserError
from models.load.settings import max_positions
from models.load.tokenizer import frame
from models.prompt import Prompt
from stage.config import OWN, InputsConfig
from stage.model import Unloaded
from stage.options import defaults_of

# The options that generated rows depend on, by the source that generates them.
GENERATED = {
    "needle": ("lengths", "depths", "haystack", "data_seed"),
    "ruler": ("lengths", "haystack", "data_seed", "ruler_dir"),
}
NOT_DEFAULT = (
    "skip", "limit", "chunking", "chunk_size", "max_length", "chat", "longbench_dir", "ruler_dir",
    "lengths", "depths", "haystack", "data_seed", *OWN,
)  # fmt: skip


def ensure(model: Unloaded, dataset: Dataset, config: InputsConfig) -> Inputs:
    """The inputs that these options make, built if they are missing or damaged; says which."""
    splitter, request = prepare(model, dataset, config)
    recipe = make_recipe(model, splitter, request, config)
    path = inputs.item_path(config.inputs, recipe)
    try:
        found = inputs.read(path, recipe)
    except FileNotFoundError:
        found = build(path, recipe, splitter, request)
    except UserError as damage:
        print(f"chunk: {damage}; building it anew")
        found = build(path, recipe, splitter, request)
    print(f"inputs: {path}, {len(found.items)} items; {differences(config)}", flush=True)
    return found


def differences(config: InputsConfig) -> str:
    """What was named that is not the default, for the line that says which inputs are used."""
    default = defaults_of(InputsConfig)
    named = [
        f"{name.upper()}={_text(getattr(config, name))}"
        for name in NOT_DEFAULT
        if getattr(config, name) != default[name]
    ]
    return f"not the default: {' '.join(named)}" if named else "all settings at their default"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return '"' + " ".join(f"{one:g}" for one in value) + '"'
    return str(int(value)) if isinstance(value, bool) else str(value)


def prepare(model: Unloaded, dataset: Dataset, config: InputsConfig) -> tuple[Splitter, Request]:
    """What splits the rows, and which rows are asked for.

    Raises
    ------
    UserError : the model's positions cannot hold the prompt and its answer.
    """
    room = max_positions(model.config) - dataset.max_new_tokens
    length = room if config.max_length is None else config.max_length
    if not 1 <= length <= room:
        raise UserError(
            f"MAX_LENGTH={length} does not fit: {config.model} has room for {room} "
            f"prompt tokens beside {dataset.max_new_tokens} of answer; give 1 to {room}"
        )
    chunking = config.chunking
    if chunking == "passage" and dataset.passage_pattern is None:
        print(f"chunk: {dataset.name} has no passages, so it is split by tokens")
        chunking = "token"
    chat = dataset.chat if config.chat is None else config.chat
    settings = Splitting(chunking, config.chunk_size, length, chat)
    framing = frame(model.tokenizer, model.config, settings.chat)
    splitter = Splitter(dataset, model.tokenizer, framing, settings)
    request = Request(
        measure=splitter.measure,
        room=settings.max_length,
        skip=config.skip,
        limit=config.limit,
        longbench_dir=config.longbench_dir,
        sample=config.sample,
        lengths=tuple(config.lengths),
        depths=tuple(config.depths),
        haystack=config.haystack,
        ruler_dir=config.ruler_dir,
        seed=config.data_seed,
    )
    return splitter, request


def make_recipe(
    model: Unloaded, splitter: Splitter, request: Request, config: InputsConfig
) -> Recipe:
    """Everything that the inputs are made from."""
    dataset, default = splitter.dataset, defaults_of(InputsConfig)
    return inputs.make_recipe(
        dataset,
        rows=digest(dataset, request),
        model=model.source.name,
        tokenizer=model.tokenizer_fingerprint,
        settings=splitter.settings,
        generation={
            name: getattr(config, name)
            for name in GENERATED.get(dataset.source, ())
            if getattr(config, name) != default[name]
        },
        sink=splitter.frame.sink,
        skip=request.skip,
        limit=request.limit,
    )


def build(path: Path, recipe: Recipe, splitter: Splitter, request: Request) -> Inputs:
    """Find the rows, split them, and write both files."""
    dataset = splitter.dataset
    found = load_rows(dataset, request)
    ids = inputs.safe_ids(row.id for row in found.rows)
    lines, sizes, truncated = [], [], 0
    for item_id, row in zip(ids, tqdm(found.rows, dataset.name, disable=None), strict=True):
        split = splitter.split(row)
        sizes.append(len(split.prompt))
        truncated += split.lost > 0
        lines.append(_line(item_id, row, split.prompt, splitter))
    if not lines:
        raise UserError(f"{dataset.name} has no rows; give another LIMIT, LENGTHS or folder")
    inputs.write(
        path,
        lines,
        recipe,
        source=found.source,
        where=found.where,
        is_sample=found.is_sample,
        available=found.available,
        truncated=truncated,
    )
    print(
        f"chunk: {dataset.name}: {len(lines)} of {found.available} items from the {found.source} "
        f"({median(sizes):.0f} tokens in the median, {max(sizes)} at most, {truncated} truncated)"
    )
    return inputs.read(path, recipe)


def _line(item_id: str, row: Row, prompt: Prompt, splitter: Splitter) -> dict[str, Any]:
    prefix, *chunks, question = [list(prompt.ids[slice(*span)]) for span in prompt.segments]
    return {
        **row.details,
        "id": item_id,
        "chunks": [splitter.tokenizer.decode(chunk) for chunk in chunks],
        "question": row.question,
        "answers": list(row.answers),
        "all_classes": row.all_classes,
        "length": row.length,
        "tokens": {"prefix": prefix, "chunks": chunks, "question": question},
    }
