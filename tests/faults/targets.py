"""The kinds of files, what may happen to each, and what a user runs next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.damage import (
    BYTES,
    JSON,
    LINES,
    TEXT,
    YAML,
    Damage,
    double_line,
    edit_digit,
    flip,
    from_tree,
    kin,
    peer,
)
from tests.faults.stand import DATASET
from tests.faults.tensors import TENSORS

SAME, FRESH = "same", "fresh"


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    pattern : its files, below a tree. kin : those of neighbouring kinds, below the file's folder.
    damages : what may happen to it, by name.
    trees : what the case is a copy of, one of them.
    stage : what the user runs. setting : with what, of the stand's settings.
    expected : ``same``, the results of the tree as it was; ``fresh``, those of the damaged file
        where nothing has been made yet, since a user's own file may be edited.
    """

    pattern: str
    damages: dict[str, Damage]
    trees: Sequence[str] = ("built",)
    stage: str = "eval"
    expected: str = SAME
    kin: Sequence[str] = ()
    setting: str = "run"

    def files(self, tree: Path) -> list[Path]:
        return sorted(tree.glob(self.pattern))


def of(*names: str) -> dict[str, Damage]:
    """Files of the same kind, made with another setting."""
    return {f"of other {name}": from_tree(name) for name in names}


def without(damages: dict[str, Damage], *names: str) -> dict[str, Damage]:
    return {name: damage for name, damage in damages.items() if name not in names}


SWAPPED = {"of another item": peer, "of another kind": kin}
ITEM = BYTES | TENSORS | SWAPPED | of("chunking", "dtype", "weights", "rows")
FOLDER = f"kvs/*/{DATASET}*/item_*"
RUN = f"outputs/*/{DATASET}/*"
OTHER_RUN = {"of another method": peer} | of("chunking", "dtype", "weights", "rows")

OWN: dict[str, Any] = {
    "trees": ("own model", "own model, built"),
    "expected": FRESH,
    "setting": "own model",
}

TARGETS = {
    "kvs.pt": Target(f"{FOLDER}/kvs.pt", ITEM, kin=("surprisal.pt", "sinks.pt")),
    "surprisal.pt": Target(f"{FOLDER}/surprisal.pt", ITEM, kin=("kvs.pt", "sinks.pt")),
    "sinks.pt": Target(f"{FOLDER}/sinks.pt", ITEM, kin=("kvs.pt", "surprisal.pt")),
    "inputs (.jsonl)": Target(
        f"inputs/*/{DATASET}-*.jsonl",
        BYTES | TEXT | LINES | JSON | of("chunking", "rows") | {"of another kind": kin},
        kin=(f"{DATASET}-*.meta.json",),
    ),
    "sidecar (.meta.json)": Target(
        f"inputs/*/{DATASET}-*.meta.json",
        BYTES
        | TEXT
        | without(JSON, "list reordered")
        | of("chunking", "weights", "rows")
        | {"of another kind": kin},
        kin=(f"{DATASET}-*.jsonl",),
    ),
    "records.jsonl": Target(
        f"{RUN}/records.jsonl",
        BYTES | TEXT | LINES | JSON | OTHER_RUN | {"of another kind": kin},
        trees=("run", "begun"),
        kin=("config.json",),
    ),
    "config.json": Target(
        f"{RUN}/config.json",
        BYTES | TEXT | without(JSON, "list reordered") | OTHER_RUN | {"of another kind": kin},
        trees=("run", "begun"),
        kin=("records.jsonl",),
    ),
    "gate.json": Target(
        "outputs/*/gate.json",
        BYTES | TEXT | JSON | of("chunking", "dtype", "weights", "rows"),
        trees=("run",),
    ),
    "result.json": Target(
        f"{RUN}/result.json",
        # A run without one has not finished, and is no part of the report.
        without(BYTES, "missing") | TEXT | JSON | OTHER_RUN | {"of another kind": kin},
        trees=("run",),
        stage="report",
        kin=("config.json", "records.jsonl", "result.txt"),
    ),
    "raw rows": Target(
        f"rows/{DATASET}.jsonl",
        BYTES | TEXT | LINES | JSON | of("rows"),
        trees=("run",),
        expected=FRESH,
    ),
    "the dataset's entry": Target(
        "config/datasets/short.yaml",
        BYTES | TEXT | without(LINES, "line cut") | YAML,
        trees=("run",),
        expected=FRESH,
    ),
    "another dataset's entry": Target(
        "config/datasets/hotpotqa_distractor.yaml",
        BYTES | TEXT | YAML,
        trees=("run",),
        expected=FRESH,
    ),
    "models.yaml": Target(
        "config/models.yaml", BYTES | TEXT | LINES | YAML, trees=("run",), expected=FRESH
    ),
    "own model's config.json": Target(
        "model/config.json", BYTES | TEXT | without(JSON, "list reordered"), **OWN
    ),
    "own model's stops": Target(
        "model/generation_config.json", without(JSON, "list reordered", "half a character"), **OWN
    ),
    "own model's tokenizer": Target(
        "model/token*.json",
        # A vocabulary with one number twice is read in another order at each time.
        without(BYTES, "bit flipped", "noise")
        | without(TEXT, "digit edited", "letter edited")
        | JSON,
        **OWN,
    ),
    # What its bits are is not looked at: the fingerprint reads 256 numbers of each tensor.
    "own model's weights": Target(
        "model/model.safetensors",
        {"bit flipped in the header": flip(0.0, 0.004)}
        | without(BYTES, "bit flipped", "page zeroed", "noise", "byte lost or doubled"),
        **OWN,
    ),
    "converted model": Target(
        "cache/models/*/*/*",
        BYTES | {"of another kind": peer},
        trees=("converted",),
        setting="converted",
    ),
    "converted model's manifest": Target(
        "cache/models/*/*/manifest.json", TEXT | JSON, trees=("converted",), setting="converted"
    ),
    "hash of the .gguf file": Target(
        "cache/hashes/*",
        without(BYTES, "nested deeply") | {"line doubled": double_line, "digit edited": edit_digit},
        trees=("converted",),
        setting="converted",
    ),
}
# Of those that load a model, one case each is enough.
SLOW = {name for name, target in TARGETS.items() if target.setting != "run"}
