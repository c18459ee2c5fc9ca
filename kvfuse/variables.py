"""What Make was told, and the model and dataset that were named last."""

from __future__ import annotations

import json
import re
from pathlib import Path

# Variables that the Makefile uses itself.
MAKE_ONLY = ("PYTHON", "EXTRAS")
LAST = Path(".last.json")
REMEMBERED = ("model", "dataset")


def from_make(flags: str) -> list[str]:
    """``NAME=value`` words of a Make command line, from the ``MAKEFLAGS`` that its recipes see.

    Read from there and not handed over by the recipe, so that neither Make nor the shell expands
    or splits a value: Make writes blanks and backslashes behind a backslash, and dollars twice.
    """
    _, separator, definitions = f" {flags}".partition(" -- ")
    if not separator:
        return []
    words = re.findall(r"(?:\\.|[^\s\\])+", definitions, re.DOTALL)
    plain = [re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL).replace("$$", "$") for word in words]
    return [word for word in plain if word.partition("=")[0] not in MAKE_ONLY]


def remembered() -> dict[str, str]:
    """The last MODEL and DATASET named here, as far as there are any."""
    try:
        found = json.loads(LAST.read_text(encoding="utf-8"))
        return {name: found[name] for name in REMEMBERED if isinstance(found.get(name), str)}
    except (OSError, ValueError, AttributeError):
        return {}


def remember(model: str, dataset: str) -> None:
    """Keep them for the next call; where the folder cannot be written they are named again."""
    try:
        LAST.write_text(json.dumps({"model": model, "dataset": dataset}) + "\n", encoding="utf-8")
    except OSError:
        return
