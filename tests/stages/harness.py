"""A tiny model and tiny benchmark rows on disk, and ways to run the stages on them."""

from __future__ import annotations

import chunk.__main__ as chunk_stage
import contextlib
import copy
import hashlib
import io
import json
import random
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import eval.__main__ as eval_stage
import eval.codecs as codecs_stage
import eval.gate as gate_stage
import eval.report.__main__ as report_stage
import eval.sweep as sweep_stage
import precompute.__main__ as precompute_stage
from data import datasets
from eval import gating
from eval.codecs import CodecsConfig
from eval.config import EvalConfig, SweepConfig
from eval.record import from_line
from eval.report.config import ReportConfig
from eval.variants import method_options
from models import gate
from models.selectors import selector_class
from stage import session
from stage.config import InputsConfig, ModelConfig, PrecomputeConfig
from stage.options import command
from tests.conftest import build

# Stages are tested over one set of KVs: here all published methods stand behind the sink. What each
# has of its own is tested in test_contexts.py.
for _name in ("debug", "blend_debug"):
    selector_class(_name).context = "sink"
session.OWN_CONTEXT = "sink"

DATASET = "2wikimqa"
STAGES = {
    "chunk": (InputsConfig, chunk_stage.main, None),
    "precompute": (PrecomputeConfig, precompute_stage.main, None),
    "eval": (EvalConfig, eval_stage.main, method_options),
    "sweep": (SweepConfig, sweep_stage.main, method_options),
    "codecs": (CodecsConfig, codecs_stage.main, method_options),
    "gate": (ModelConfig, gate_stage.main, None),
    "report": (ReportConfig, report_stage.main, None),
}
VOCABULARY = 480
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXT = """
river bridge Ilka tower born in 1912 the a film of Port Anselm studio lake Orsel drama street by its
composer wrote seven town north brother market; opened, closed Åsa 灯 and was old new
"""
WORDS = TEXT.split()
# Of a sweep, what a clock or the place decides; everything else must repeat.
DATED = {
    "ttft_ready_ms",
    "select_ms",
    "correct_ms",
    "tpot_ms",
    "evict_ms",
    "speedup_ready",
    "full_prefill_ms",
    "load_ms",
    "answers_kept",
    "environment",
    "folder",
}
# Of a record, what a clock decides; everything else must repeat.
TIMES = {
    "ttft_ms",
    "ttft_parts_ms",
    "ttft_parts_ready_ms",
    "full_prefill_ms",
    "load_ms",
    "answer_kept",
    "tpot_ms",
    "tpot_parts_ms",
    "evict_ms",
    "page_cache_dropped",
    "reading",
}


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in LongBench's schema: two to five short passages each."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(6, 14))).capitalize() + "."

    rows = []
    for number in range(count):
        passages = [
            f"Passage {p}:\n{' '.join(rng.choices(WORDS, k=2))}\n{sentence()} {sentence()}"
            for p in range(1, rng.randint(3, 6))
        ]
        rows.append(
            {
                "input": f"Which {rng.choice(WORDS)} came first?",
                "context": "\n".join(passages),
                "answers": [rng.choice(WORDS), "the river"],
                "length": 50,
                "dataset": DATASET,
                "language": "en",
                "all_classes": None,
                "_id": f"row-{number}",
            }
        )
    return rows


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{DATASET}.jsonl").write_text(text, encoding="utf-8")
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the rows and the benchmark's own instruction."""
    dataset = datasets.get(DATASET)
    texts = [row["context"] for row in make_rows(20)] + [dataset.instruction, dataset.question] * 3
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
    )


def make_model(folder: Path, seed: int = 7, **changes: Any) -> Path:
    """A random Llama and its tokenizer, as a Hugging Face folder."""
    settings = {"vocab_size": 512, "initializer_range": 0.12, **changes}
    model = build("llama", **settings)
    if seed != 7:  # the same shape, other weights
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    """How a stage ended and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Workplace:
    """One model, one folder of rows, and folders of its own for what the stages make.

    ``settings`` are named in every call that does not name them itself: prompts of the tiny rows
    would be one chunk otherwise.
    """

    root: Path
    model: Path
    rows: Path | None
    settings: dict[str, Any] = field(default_factory=lambda: {"chunk_size": 24})

    def given(self, stage: str) -> dict[str, Any]:
        """What a call names unless told otherwise; None stands for what it leaves out."""
        folders = {name: self.root / name for name in ("inputs", "kvs", "outputs")}
        given = {"model": self.model, "dataset": DATASET, **folders}
        if stage == "report":
            given["page"] = 0  # the tables; tests of the page ask for it
        else:
            given |= {"longbench_dir": self.rows, **self.settings}
        if stage not in ("report", "chunk"):
            given |= {"device": "cpu", "threads": 1}
        if stage in ("eval", "sweep", "codecs"):
            given |= {"max_new_tokens": 4}
        return {name: value for name, value in given.items() if value is not None}

    def argv(self, stage: str, *options: Any) -> list[str]:
        """The stage's command line; what ``options`` name overrides what is given here."""
        words = [str(option) for option in options]
        named = set(map(_named, words))
        given = self.given(stage).items()
        rest = [f"{name.upper()}={value}" for name, value in given if name not in named]
        return [f"{stage}/__main__.py", *rest, *words]

    def run(self, stage: str, *options: Any) -> Outcome:
        """Run a stage in this process, as ``python -m <stage>`` would."""
        return run(stage, self.argv(stage, *options)[1:])

    def ok(self, stage: str, *options: Any) -> Outcome:
        """Run a stage that must succeed."""
        outcome = self.run(stage, *options)
        assert outcome.code == 0, outcome.err
        return outcome

    @property
    def inputs(self) -> Path:
        """The inputs file; the one made last where there are several."""
        return max((self.root / "inputs").glob(f"*/{DATASET}-*.jsonl"), key=_age)

    @property
    def kvs(self) -> Path:
        """The folder of the items' KV folders; the one made last where there are several."""
        return max((self.root / "kvs").glob(f"*/{DATASET}*"), key=_age)

    def kv_files(self) -> dict[str, Path]:
        """Every item's ``kvs.pt`` by item id."""
        files = self.kvs.glob("item_*/kvs.pt")
        return {path.parent.name.removeprefix("item_"): path for path in files}

    def ids(self) -> list[str]:
        """Item ids in the order of the inputs."""
        lines = self.inputs.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["id"] for line in lines]

    def runs(self) -> dict[str, Path]:
        """Run folders by method; the last one made where a method has several."""
        saved = sorted((self.root / "outputs").glob(f"*/{DATASET}/*/config.json"), key=_age)
        return {path.parent.name.split("-")[0]: path.parent for path in saved}

    def result(self, method: str) -> dict[str, Any]:
        return json.loads((self.runs()[method] / "result.json").read_text(encoding="utf-8"))


def _named(word: str) -> str:
    """The option that a word of a command line names, if it names one."""
    option = re.match(r"--([\w-]+)|([A-Z_]+)=", word)
    return (option[1] or option[2]).replace("-", "_").lower() if option else ""


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def run(stage: str, arguments: Sequence[str]) -> Outcome:
    """Run a stage with this command line and no other word."""
    config, main, more = STAGES[stage]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(stage, config, main, arguments, more)
    return Outcome(code, out.getvalue(), err.getvalue())


def pasted(line: str) -> Outcome:
    """Run the command that a line ends with, as a shell would read it."""
    found = re.search(rf"make ({'|'.join(STAGES)}) .*", line)
    assert found, line
    _, stage, *words = shlex.split(found[0])
    return run(stage, words)


def records(run_folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in the file's order, each as its seal says."""
    lines = (run_folder / "records.jsonl").read_bytes().splitlines()
    return list(map(from_line, lines))


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what a clock decides."""
    return {key: value for key, value in record.items() if key not in TIMES}


run_gate = gating.run
_passed: dict[str, dict[str, Any]] = {}


def gate_once(session: session.Session) -> dict[str, Any]:
    """:func:`eval.gating.run`, where what passed the gate passes it again.

    Its outcome is decided by its key and the tolerance; half of a short run would go into it.
    """
    key = json.dumps([gating._key(session), str(gate.TOLERANCE)], sort_keys=True)
    if key not in _passed:
        outcome = run_gate(session)
        if not outcome["passed"]:
            return outcome
        _passed[key] = outcome
    return copy.deepcopy(_passed[key])


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def line_of(outcome: Outcome, stage: str) -> str:
    """The one line on stderr of a refused stage."""
    assert outcome.code == 2, outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith(f"{stage}: ")
    return lines[0]


def refused(place: Workplace, stage: str, *options: object) -> str:
    """Run a stage that must refuse and leave everything as it was; returns its line."""
    before = snapshot(place.root)
    line = line_of(place.run(stage, *options), stage)
    assert snapshot(place.root) == before
    return line


def sweep_of(workplace: Workplace) -> dict[str, Any]:
    """``sweep.json`` of the latest sweep."""
    found = sorted((workplace.root / "outputs").glob(f"*/{DATASET}/sweep-*/sweep.json"), key=_age)
    return strict(found[-1].read_text(encoding="utf-8"))


def points(sweep: dict[str, Any]) -> dict[tuple[str, float | None], Path]:
    """Run folders of a sweep by method and rate."""
    return {(row["method"], row["rate"]): Path(row["folder"]) for row in sweep["rows"]}


def undated(value: Any) -> Any:
    """What a sweep says without what clocks and places decide."""
    if isinstance(value, dict):
        return {key: undated(inner) for key, inner in value.items() if key not in DATED}
    return [undated(inner) for inner in value] if isinstance(value, list) else value


def snapshot(root: Path) -> dict[str, str]:
    """Every folder and file below ``root`` with a hash of its content."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(root.rglob("*"))
    }
