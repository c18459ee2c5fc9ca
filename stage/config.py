"""What the stages are asked to do: each stage takes the options of those before it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from data import datasets
from data.context import FORMS, Context
from data.dataset import Dataset
from data.sources.own import OwnOptions
from models import tuning
from models.chunks.sizes import parsed
from models.errors import UserError
from models.load import source
from stage.options import option, options_of

LAYOUTS = ("item", "chunks")
UNCODED = "none"  # of CODEC: KVs as they are
AUTO = "auto"  # of CONTEXT and CORRECT: what each method has as published

MODEL, DATASET = "smollm2-135m", "2wikimqa"
METHOD = "debug"  # of REUSE, where none is named
# Options of documents of one's own.
OWN = ("question", "documents", "answers", "prompt", "metric")


def check_names(model: str = MODEL, dataset: str = DATASET) -> None:
    """Raise UserError for a model or dataset that there cannot be; quick, nothing is loaded."""
    source.check(model)
    for found in datasets.expand(dataset):
        place = str(found.parameters.get("place", ""))
        if place and not place.startswith("hub:") and not os.path.exists(place):
            raise UserError(f"DATASET={dataset}: there is no file or folder {place}")


@dataclass
class StageConfig:
    """Which model, which datasets, and where the folders of the three stages are."""

    model: str = option(MODEL, "alias of config/models.yaml, hub id, local folder or .gguf file")
    dataset: str = option(DATASET, "a dataset, a list, or a suite (the README lists them)")
    limit: int | None = option(None, "only the first so many items")
    skip: int = option(0, "leave out the first so many items before that (0)")
    inputs: str = option("inputs", "folder of stage 1's results")
    kvs: str = option("kvs", "folder of stage 2's results")
    outputs: str = option("outputs", "folder of stage 3's results")
    given: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_names(self.model, self.dataset)
        if self.limit is not None and self.limit < 1:
            raise UserError(f"LIMIT={self.limit} asks for no items; give 1 or more")
        if self.skip < 0:
            raise UserError(f"SKIP={self.skip} must be at least 0")

    def datasets(self) -> list[Dataset]:
        """The datasets that are named, in order."""
        return datasets.expand(self.dataset)

    def command(self, stage: str, **changes: Any) -> str:
        """The Make command that runs ``stage`` with everything that this call was given.

        Options that a stage of :data:`STAGES` does not have are left out; ``changes`` replace or
        add, and None takes away.
        """
        named = {"model": self.model, "dataset": self.dataset} | self.given | changes
        known = options_of(STAGES.get(stage, type(self)))
        texts = {n: shlex.quote(str(text)) for n, text in named.items() if text is not None}
        words = [f"{name.upper()}={text}" for name, text in texts.items() if name in known]
        return " ".join(["make", stage, *words])


@dataclass
class InputsConfig(StageConfig):
    """Split the documents of a dataset into chunks of tokens, for one model's tokenizer."""

    chunking: str = option("token", "token (default) or passage")
    chunk_size: int = option(512, "tokens of a chunk (512)")
    max_length: int | None = option(None, "tokens of a prompt at most (the model's room)")
    chat: bool | None = option(None, "1 or 0: use the chat template (as the benchmark says)")
    longbench_dir: str | None = option(None, "folder with LongBench's files, plain or compressed")
    ruler_dir: str | None = option(None, "folder with files of RULER's own generator")
    lengths: list[int] = option([], "generated rows: prompt lengths in tokens (the model's reach)")
    depths: list[float] = option([], "needle: depths in percent (0 25 50 75 100)")
    haystack: str | None = option(None, "generated rows: folder of text (Paul Graham's essays)")
    data_seed: int = option(0, "seed of generated rows (0)")
    question: str | None = option(None, "own documents: the column of questions")
    documents: str | None = option(None, "own documents: the column of documents or of the context")
    answers: str | None = option(None, "own documents: the column of answers")
    prompt: str | None = option(None, "own documents: a text or file with {context} and {question}")
    metric: str | None = option(None, "own documents: a metric, or none (qa_f1)")
    sample: bool = option(True, "0 refuses the built-in sample where LongBench cannot be had")

    def datasets(self) -> list[Dataset]:
        """The datasets that are named, in order, those of files of one's own among them."""
        said = {name: getattr(self, name) for name in OWN if getattr(self, name) is not None}
        return datasets.expand(self.dataset, OwnOptions(**said) if said else None)


@dataclass
class MachineOptions:
    """Where and how a model runs."""

    device: str = option("auto", "auto, cpu, cuda or mps")
    dtype: str = option(
        "auto", "auto (float32 on a CPU, bfloat16 elsewhere), float32, bfloat16, float16"
    )
    backend: str = option(
        "auto", "attention: auto, native, blocked, sdpa, flashinfer[:single|:paged|:paged-fa3]"
    )
    threads: int | None = option(None, "CPU threads (PyTorch's choice)")
    fast: list[str] = option([], f"GPU switches, see docs/gpu.md: {', '.join(tuning.SWITCHES)}")

    def check_threads(self) -> None:
        """Raise UserError for more threads than this machine has cores."""
        cores = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise UserError(f"THREADS={self.threads}: give 1 to {cores}, the cores of this machine")

    def check_unswitched(self) -> None:
        """Raise UserError for GPU switches, in a command that measures without any."""
        if self.fast:
            raise UserError(
                "FAST= is for eval, gate and gpu-check; here nothing is switched: leave it out"
            )


@dataclass
class ModelConfig(MachineOptions, InputsConfig):
    """Options of everything that runs the model on a dataset's items."""

    context: str = option(
        AUTO, f"what a chunk is captured behind: each method's own (auto), {FORMS}"
    )
    store: str | None = option(
        None, "item (default): a file an item; chunks: every chunk once, whoever holds it"
    )
    codec: list[str] = option(
        [UNCODED], "how KVs lie in STORE=chunks: none, bf16, int8, int4, ...; or several"
    )
    cache: str = option("20GB", "of a KVS=URL: room on this machine for what is fetched (20GB)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_threads()
        tuning.check(self.fast)
        if self.context != AUTO:
            Context.parse(self.context)
        parsed(self.cache, "CACHE")
        if self.store not in (None, *LAYOUTS):
            raise UserError(f"STORE={self.store} is unknown: give {' or '.join(LAYOUTS)}")
        coded = [name for name in self.codec if name != UNCODED]
        if coded and self.store == "item":
            raise UserError(
                f"CODEC={coded[0]} needs STORE=chunks: a file of a whole item holds KVs as they are"
            )
        if "://" in self.kvs and self.layout == "item":
            raise UserError(f"KVS={self.kvs}: a URL needs STORE=chunks")

    @property
    def layout(self) -> str:
        """How KVs are kept: ``item`` or ``chunks``, which a codec implies."""
        return self.store or ("item" if self.codec == [UNCODED] else "chunks")


@dataclass
class PrecomputeConfig(ModelConfig):
    """Encode every chunk by itself and keep its unrotated keys and its values."""

    surprisal: bool = option(False, "1 keeps each token's surprisal as well (surprisal_chunk)")
    sinks: bool = option(False, "1 keeps the attention that each token draws as well (attnlink)")

    @property
    def scores(self) -> list[str]:
        """What is kept beside the KVs."""
        return [name for name in ("surprisal", "sinks") if getattr(self, name)]


STAGES = {"chunk": InputsConfig, "precompute": PrecomputeConfig, "gate": ModelConfig}
