"""The datasets that kvfuse knows: one entry of config/datasets/*.yaml each, checked when read."""

import difflib
import re
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "config" / "datasets"

_TYPES: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "source": (str,),
    "language": (str,),
    "chat": (bool,),
    "instruction": (str,),
    "question": (str,),
    "max_new_tokens": (int,),
    "metric": (str,),
    "first_line": (bool,),
    "passage_pattern": (str, type(None)),
    "suite": (str,),
    "group": (str,),
    "answer_prefix": (str,),
    "extra_metrics": (list,),
    "parameters": (dict,),
}
_CHOICES = {
    "source": ("longbench", "hotpotqa_pack", "needle", "ruler"),
    "language": ("en", "zh", "code"),
}


@dataclass(frozen=True)
class Dataset:
    """How one benchmark task is prompted and scored.

    The prompt is `instruction + context + ask(input)`. `version` rises when a change to the entry
    would change a score. `source` says which reader finds the rows. `chat` is whether the prompt
    is wrapped in the model's chat template. `max_new_tokens` bounds the answer, `metric` names an
    entry of `eval.metrics.scores.METRICS`, `first_line` scores only the answer's first line.
    `passage_pattern` is a regular expression (multi-line mode) for the start of a passage, None
    where there are none.

    `suite` is the benchmark that the task belongs to and `group` its part of it, for averages.
    `answer_prefix` begins the answer for the model, after the chat footer. `extra_metrics` are
    recorded beside the score. `parameters` are those of the rows' generator.
    """

    name: str
    version: int
    source: str
    language: str
    chat: bool
    instruction: str
    question: str
    max_new_tokens: int
    metric: str
    first_line: bool
    passage_pattern: str | None
    suite: str = ""
    group: str = ""
    answer_prefix: str = ""
    extra_metrics: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    def ask(self, text: str) -> str:
        """The prompt's part after the context, with `text` (a row's `input`) put in its place."""
        return self.question.replace("{input}", text)

    def begin(self, text: str) -> str:
        """How the model's answer begins, with `text` (a row's `input`) put in its place."""
        return self.answer_prefix.replace("{input}", text)


def read_config(folder: Path) -> dict[str, Dataset]:
    """Every dataset of the folder's YAML files, by name; raises UserError naming a bad entry."""
    found: dict[str, Dataset] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            problem = " ".join(str(error).split())
            raise UserError(f"{path}: not readable as YAML ({problem}); mend the file") from None
        if not isinstance(entries, dict):
            raise UserError(f"{path}: must map dataset names to their settings; mend the file")
        for name, entry in entries.items():
            if name in found:
                raise UserError(f"{path}: dataset {name!r} is defined twice; rename one of them")
            found[str(name)] = _entry(path, str(name), entry)
    return found


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(_known())


def get(name: str) -> Dataset:
    """The dataset called `name`; raises UserError with the nearest names when there is none."""
    known = _known()
    if name in known:
        return known[name]
    allowed = [*known, *suites()]
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(allowed)}"
    raise UserError(f"unknown dataset {name!r}: {hint}")


def suites() -> list[str]:
    """The names that stand for several datasets: `all` and every benchmark with more than one."""
    counted = Counter(dataset.suite for dataset in _known().values())
    return ["all", *sorted(suite for suite, count in counted.items() if suite and count > 1)]


def expand(text: str) -> list[Dataset]:
    """The datasets that a list of names and suites means, in order, none twice.

    `text` is separated by commas or spaces. Raises UserError for an unknown name, or for none.
    """
    chosen: dict[str, Dataset] = {}
    for name in text.replace(",", " ").split():
        if name in suites():
            chosen |= {k: d for k, d in _known().items() if name in ("all", d.suite)}
        else:
            chosen[name] = get(name)
    if not chosen:
        raise UserError(f"no dataset named: choose from {', '.join([*names(), *suites()])}")
    return list(chosen.values())


@lru_cache(maxsize=1)
def _known() -> dict[str, Dataset]:
    return read_config(CONFIG_DIR)


def _entry(path: Path, name: str, entry: Any) -> Dataset:
    where = f"{path}: dataset {name!r}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a mapping of settings; mend the file")
    known = [item for item in fields(Dataset) if item.name != "name"]
    expected = [item.name for item in known]
    for key in entry:
        if key not in expected:
            near = difflib.get_close_matches(str(key), expected, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(expected)}"
            raise UserError(f"{where} has an unknown key {key!r}; {hint}")
    required = [i.name for i in known if i.default is MISSING and i.default_factory is MISSING]
    missing = [key for key in required if key not in entry]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; add it to the entry")
    for key, value in entry.items():
        _check_value(where, key, value)
    return Dataset(name=name, **entry)


def _check_value(where: str, key: str, value: Any) -> None:
    # type() and not isinstance(): YAML's `true` would pass as the integer 1.
    if type(value) not in _TYPES[key]:
        kinds = " or ".join(kind.__name__ for kind in _TYPES[key]).replace("NoneType", "null")
        raise UserError(f"{where}: {key} must be {kinds}, not {value!r}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{where}: {key} must be {' or '.join(_CHOICES[key])}, not {value!r}")
    if key in ("version", "max_new_tokens") and value < 1:
        raise UserError(f"{where}: {key} must be at least 1, not {value}")
    if key == "passage_pattern" and value is not None:
        try:
            re.compile(value, re.MULTILINE)
        except re.error as error:
            raise UserError(f"{where}: passage_pattern: no valid regex ({error})") from None
