"""What the stages share: a model, one dataset's inputs, and where their KVs lie."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from data import inputs
from data.context import Context
from data.dataset import Dataset
from data.inputs import Inputs, Item
from models import codecs, tuning
from models.chunks.sizes import parsed
from models.chunks.store import CHUNKS, ChunkStore, folder_of
from models.codecs import BaseCodec
from models.engine import Engine
from models.errors import UserError
from models.kv.chunked import ChunkedItem
from models.kv.format import describe
from models.kv.pieces import pieces
from models.kv.store import StoredItem
from models.load.settings import pick_device, pick_dtype
from models.load.source import ModelSource, cache_dir
from models.load.tokenizer import encode
from models.prompt import Headers
from models.sealed import digest
from models.selectors import selector_class
from stage.config import AUTO, METHOD, InputsConfig, ModelConfig
from stage.model import Unloaded, Weights
from stage.options import defaults_of

if TYPE_CHECKING:
    from models.load.weights import LoadedModel

OWN_CONTEXT = selector_class(METHOD).context  # the default method's

Stored = StoredItem | ChunkedItem


@dataclass(frozen=True)
class Session:
    """A model, loaded or not, and one dataset's inputs."""

    unloaded: Unloaded
    weights: Weights
    dataset: Dataset
    inputs: Inputs
    config: ModelConfig

    @property
    def source(self) -> ModelSource:
        return self.unloaded.source

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.unloaded.tokenizer

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.unloaded.tokenizer_fingerprint

    @property
    def loaded(self) -> LoadedModel:
        return self.weights.loaded

    @property
    def engine(self) -> Engine:
        """The engine around the model: asked for the first time, it loads the weights."""
        return self.weights.engine

    @cached_property
    def context(self) -> Context:
        """What chunks are captured behind; the default method's own where none is named."""
        named = self.config.context
        return Context.parse(OWN_CONTEXT if named == AUTO else named)

    def behind(self, context: str) -> Session:
        """The same, with chunks that are captured behind something else."""
        return replace(self, config=replace(self.config, context=context))

    def under(self, codec: str) -> Session:
        """The same, with chunks that lie under one codec; its layout stays."""
        return replace(self, config=replace(self.config, codec=[codec], store=self.config.layout))

    @cached_property
    def codec(self) -> BaseCodec:
        """How chunks lie on disk; the first where several are named."""
        return codecs.build(self.config.codec[0])

    @cached_property
    def fronts(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Tokens in front of each item's segments, by item id, see :meth:`Context.fronts`.

        Raises
        ------
        UserError : too little text for a primer, or no room for it in the model's positions.
        """
        prompts = {item.id: item.prompt for item in self.inputs.items}
        corpus = (prompt.ids[slice(*prompt.documents)] for prompt in prompts.values())
        sources = self.context.sources(
            corpus, lambda text: encode(self.tokenizer, text, foreign=True)
        )
        found = {
            item: self.context.fronts(prompt, self.inputs.sink, sources)
            for item, prompt in prompts.items()
        }
        for item, fronts in found.items():
            longest = max(end - start for start, end in prompts[item].segments[1:])
            before = max(map(len, fronts), default=0)
            if before + longest > self.weights.max_positions:
                raise UserError(
                    f"CONTEXT={self.context.label}: item {item} has {before} tokens in front "
                    f"of {longest}, and the model holds {self.weights.max_positions}; give fewer "
                    "tokens, or a smaller CHUNK_SIZE"
                )
        return found

    def headers(self, item: Item, codec: BaseCodec | None = None) -> Headers:
        """What stands in front of an item's chunks when they are captured.

        Parameters
        ----------
        codec : that their KVs went through, where it is not the session's own. No chunk is exact
            behind one that loses something.
        """
        found = Headers.of(item.prompt, self.inputs.sink, self.fronts[item.id])
        if (codec or self.codec).lossless(self.weights.dtype):
            return found
        return found._replace(exact=False)

    @cached_property
    def fronts_digest(self) -> str | None:
        """16 hex over all that stands in front of chunks; None for the sink alone."""
        if self.context.kind == "sink":
            return None
        return digest(list(self.fronts.values()))[:16]

    def expected(self, item: Item) -> dict[str, Any]:
        """The meta that this item's KV files must have."""
        fronts = self.fronts[item.id]
        behind = {"front": digest(fronts)} if fronts else {}
        return describe(
            self.engine.modules,
            item.prompt,
            model=self.source.name,
            weights=self.weights.known.fingerprint,
            tokenizer=self.tokenizer_fingerprint,
            chunking=self.inputs.chunk_meta | behind,
        )

    @cached_property
    def kv_root(self) -> Path:
        """Where this dataset's KV files lie: by the dataset's name, where all else is default.

        Other chunks, contexts, prompts, generated rows and another dtype get a folder of their own,
        so that going from one setting to another and back rebuilds nothing.
        """
        chosen = changed(self.config) | self.inputs.meta.recipe.generation
        if self.context != Context.parse(OWN_CONTEXT):
            chosen["context"] = asdict(self.context)
        if self.config.codec[0] != codecs.NONE:
            chosen["codec"] = codecs.spec_of(self.codec)
        auto = pick_dtype("auto", pick_device(self.config.device))
        if self.weights.dtype != auto:
            chosen["dtype"] = self.weights.dtype_name
        suffix = f"-{digest(chosen)[:6]}" if chosen else ""
        here = folder_of(self.config.kvs)
        # Of a remote's items nothing lies here but the locks of those that are being built.
        root = here or cache_dir() / "building" / digest(self.config.kvs)[:16]
        return root / self.source.name / f"{self.dataset.name}{suffix}"

    @property
    def kv_place(self) -> str:
        """The same for people: a folder or a URL."""
        return f"{self.config.kvs.rstrip('/')}/{self.source.name}/{self.kv_root.name}"

    def folder(self, item: Item) -> Path:
        """Where one item's KV files lie."""
        return self.kv_root / f"item_{item.id}"

    @cached_property
    def chunks(self) -> ChunkStore:
        """The store of the model's chunks."""
        root = self.config.kvs.rstrip("/")
        room = parsed(self.config.cache, "CACHE")
        return ChunkStore(f"{root}/{self.source.name}/{CHUNKS}", room=room)

    def stored(self, item: Item, scores: Sequence[str] = ()) -> Stored:
        """One item's KVs, where they lie; ``scores`` is what a remedy must build beside them."""
        remedy = self.precompute_command(scores)
        if self.config.layout == "item":
            ahead = tuning.ahead(self.config.fast)
            return StoredItem(self.folder(item), self.expected(item), remedy, ahead=ahead)
        return ChunkedItem(
            self.chunks,
            f"{self.kv_root.name}/item_{item.id}",
            self.expected(item),
            pieces(item.prompt, self.inputs.sink, self.fronts[item.id]),
            self.codec,
            remedy,
        )

    def precompute_command(self, scores: Sequence[str]) -> str:
        """What rebuilds these KV files and scores.

        All datasets are named as they were: a name of its own or an option that goes with another
        of them need not stand alone.
        """
        config = self.config
        context = None if config.context == AUTO else config.context
        store = None if config.layout == "item" else config.layout
        codec = None if config.codec == [codecs.NONE] else " ".join(config.codec)
        chosen = {"context": context, "store": store, "codec": codec}
        return config.command("precompute", **chosen, **dict.fromkeys(scores, 1))


def changed(config: InputsConfig) -> dict[str, Any]:
    """The options that decide an item's tokens, chunks and id, as far as they are not default."""
    default = defaults_of(InputsConfig)
    names = (
        "chunking", "chunk_size", "max_length", "chat", "longbench_dir", "ruler_dir",
        "question", "documents", "prompt",
    )  # fmt: skip
    values = {name: getattr(config, name) for name in names}
    return {name: value for name, value in values.items() if value != default[name]}


Find = Callable[[Unloaded, Dataset, ModelConfig], Inputs]


def begin(config: ModelConfig, find: Find) -> Iterator[Session]:
    """A session for every dataset named; all share one model, loaded once, when it is needed.

    Of several datasets the inputs are read anew when their turn comes: together they may be large.

    Parameters
    ----------
    find : gets the inputs of one dataset: reads them, or builds what is missing.

    Raises
    ------
    UserError : the model cannot be had.
    """
    for codec in config.codec:
        codecs.build(codec)  # an unknown one is told before anything slow
    if config.threads:
        torch.set_num_threads(config.threads)
    unloaded = Unloaded.find(config.model)
    weights = Weights(unloaded, config)
    pending = []
    for dataset in config.datasets():
        found = find(unloaded, dataset, config)
        pending.append((dataset, found if len(config.datasets()) == 1 else None, found.recipe))
    for dataset, kept, recipe in pending:
        found = kept or inputs.read(inputs.item_path(config.inputs, recipe), recipe)
        if found.note:
            print(f"*** {found.note} ***", file=sys.stderr)
        yield Session(unloaded, weights, dataset, found, config)
