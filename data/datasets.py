"""The datasets that kvfuse knows: one entry of config/datasets/*.yaml each, checked when read."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from data.dataset import Dataset
from data.rows import SOURCES
from data.sources import own as own_files
from data.sources.own import OwnOptions
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
    "metric": (str, type(None)),
    "first_line": (bool,),
    "passage_pattern": (str, type(None)),
    "suite": (str,),
    "group": (str,),
    "answer_prefix": (str,),
    "extra_metrics": (list,),
    "parameters": (dict,),
}
_CHOICES = {
    "source": tuple(SOURCES),
    "language": ("en", "zh", "code", "auto"),
}


def read_config(folder: Path) -> dict[str, Dataset]:
    """Every dataset of the folder's YAML files, by name; raises UserError naming a bad entry."""
    found: dict[str, Dataset] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
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
    if os.sep in name or "." in name:
        hint = f"there is no such file or folder; {hint}"
    raise UserError(f"unknown dataset {name!r}: {hint}")


def suites() -> list[str]:
    """The names that stand for several datasets: `all` and every benchmark with more than one."""
    counted = Counter(dataset.suite for dataset in _known().values())
    return ["all", *sorted(suite for suite, count in counted.items() if suite and count > 1)]


def is_own(name: str) -> bool:
    """Whether `name` is a file, a folder or a data set of the hub, and no dataset that we know."""
    return name not in _known() and name not in suites() and own_files.is_place(name)


def spelled(dataset: Dataset) -> str:
    """What ``DATASET=`` says to name it again: its name, or its place, quoted for a shell."""
    if dataset.name in _known():
        return dataset.name
    return shlex.quote(dataset.parameters["place"])


def expand(text: str, own: OwnOptions | None = None) -> list[Dataset]:
    """The datasets that a list of names, suites and files means, in order, none twice.

    `text` is separated by commas or spaces; a file whose name has spaces stands alone or in
    quotes, and a comma that belongs to a file's name parts nothing. `own` is what was said about
    files of one's own. Raises UserError for an unknown name, for none, or for options that no
    dataset of the list takes.
    """
    chosen: dict[str, Dataset] = {}
    for name in _names(text):
        if name in suites():
            chosen |= {k: d for k, d in _known().items() if name in ("all", d.suite)}
        else:
            dataset = own_files.entry(name, own) if is_own(name) else get(name)
            chosen[dataset.name] = dataset
    if not chosen:
        raise UserError(f"no dataset named: choose from {', '.join([*names(), *suites()])}")
    if own and not any(dataset.source == "own" for dataset in chosen.values()):
        said = [item.name for item in fields(own) if getattr(own, item.name) is not None]
        said = [name.upper() for name in said if name != "max_new_tokens"]  # others take it too
        if said:
            raise UserError(f"{said[0]}= is for files of your own; {text} has no such option")
    return list(chosen.values())


def _names(text: str) -> Iterator[str]:
    """The parts of a list; of parts with commas between, the longest that is a file is one."""
    if os.path.exists(os.path.expanduser(text)):
        yield text
        return
    try:
        words = shlex.split(text)
    except ValueError:
        raise UserError(f"DATASET={text}: a quotation mark is not closed") from None
    for word in words:
        parts = word.split(",")
        while parts:
            lengths = range(len(parts), 1, -1)
            joined = (n for n in lengths if os.path.exists(os.path.expanduser(",".join(parts[:n]))))
            taken = next(joined, 1)
            if name := ",".join(parts[:taken]):
                yield name
            del parts[:taken]


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
