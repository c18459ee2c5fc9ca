"""Stage 1's files: inputs/<model>/<dataset>-<key>.jsonl and its .meta.json, written and read.

The key is a hash of everything that the items are made from, so settings live side by side, and
what was made from something else is never taken for what is asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data.dataset import Dataset
from data.segments import Splitting
from models.atomic import writing
from models.code import code_digest
from models.errors import UserError
from models.prompt import Prompt
from models.sealed import digest, parse, seal, unseal

FORMAT_VERSION: Literal[2] = 2


@dataclass(frozen=True)
class Item:
    """One question with its chunks.

    ``row`` is the line as it stands in the file: ``id``, ``chunks``, ``question``, ``answers``,
    ``all_classes``, ``length``, ``tokens`` and whatever else the benchmark scores with.
    """

    id: str
    answers: list[str]
    prompt: Prompt
    row: dict[str, Any]


class Recipe(BaseModel):
    """Everything that a dataset's items are made from.

    Attributes
    ----------
    entry : hash of the dataset's entry (prompt, answer length, ...). rows : hash of the raw rows.
    code : hash of the source that reads or generates rows and splits them.
    settings : those of :class:`~data.segments.Splitting`; generation: those of generated rows.
    sink : tokens put in front of a chunk that is captured alone.
    skip, limit : so many rows are left out, and the first so many of the others taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    version: int
    entry: str
    rows: str
    model: str
    tokenizer: str
    settings: dict[str, Any]
    generation: dict[str, Any]
    sink: list[int]
    skip: int
    limit: int | None
    code: str

    @property
    def key(self) -> str:
        """8 hex that name the inputs made by it."""
        return digest({"format": FORMAT_VERSION, **self.model_dump()})[:8]


class Meta(BaseModel):
    """The sidecar: what the items were made from, where their rows came from, and their seal.

    ``truncated`` counts prompts that lost tokens, ``sha256`` is that of the items' file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = FORMAT_VERSION
    recipe: Recipe
    source: str
    where: str
    is_sample: bool
    available: int
    rows: int
    truncated: int
    sha256: str


@dataclass(frozen=True)
class Inputs:
    """All items of one dataset for one model, and the sidecar that says what they are."""

    path: Path
    meta: Meta
    items: list[Item]

    @property
    def recipe(self) -> Recipe:
        return self.meta.recipe

    @property
    def settings(self) -> Splitting:
        return Splitting(**self.recipe.settings)

    @property
    def sink(self) -> list[int]:
        """Tokens put in front of a chunk that is captured alone."""
        return self.recipe.sink

    @property
    def chunk_meta(self) -> dict[str, Any]:
        """What a KV file must have in common with these inputs, besides its tokens."""
        return {**self.recipe.settings, "sink": self.sink}

    @property
    def note(self) -> str | None:
        """The line that every result on a built-in sample carries."""
        if not self.meta.is_sample:
            return None
        return (
            f"BUILT-IN SAMPLE, NOT THE BENCHMARK: {self.meta.available} rows written for kvfuse "
            f"stand in for {self.recipe.dataset}; no score compares with a published one"
        )

    def fingerprint(self) -> str:
        """16 hex over all that is asked, read and scored: the same fingerprint, the same test."""
        content = hashlib.sha256()
        for item in self.items:
            scored = {key: value for key, value in item.row.items() if key != "tokens"}
            content.update(digest([item.prompt.sha256(), item.prompt.segments, scored]).encode())
        return content.hexdigest()[:16]


def make_recipe(
    dataset: Dataset,
    *,
    rows: str,
    model: str,
    tokenizer: str,
    settings: Splitting,
    generation: dict[str, Any],
    sink: list[int],
    skip: int,
    limit: int | None,
) -> Recipe:
    """The recipe for a dataset's items; see :class:`Recipe` for the arguments."""
    return Recipe(
        dataset=dataset.name,
        version=dataset.version,
        entry=digest(asdict(dataset))[:16],
        rows=rows,
        model=model,
        tokenizer=tokenizer,
        settings=asdict(settings),
        generation=generation,
        sink=sink,
        skip=skip,
        limit=limit,
        code=code_digest("data.rows", "data.segments"),
    )


def item_path(folder: str | Path, recipe: Recipe) -> Path:
    """Where the items made by a recipe lie."""
    return Path(folder) / recipe.model / f"{recipe.dataset}-{recipe.key}.jsonl"


def safe_ids(ids: Iterable[Any]) -> list[str]:
    """Row ids as folder names: other characters become ``-``, repeated ids get a number."""
    result: dict[str, None] = {}
    for index, raw in enumerate(ids):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(raw)).strip(".-")[:80] or str(index)
        unique, count = name, 1
        while unique in result:  # a numbered name may itself be another row's id
            count += 1
            unique = f"{name}-{count}"
        result[unique] = None
    return list(result)


def write(path: Path, rows: Sequence[dict[str, Any]], recipe: Recipe, **found: Any) -> None:
    """Write both files; the sidecar comes last and seals the other by its sha256.

    Parameters
    ----------
    found : the other fields of :class:`Meta`, but ``recipe``, ``rows`` and ``sha256``.
    """
    content = hashlib.sha256()
    with writing(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            content.update(line)
            file.write(line)
    meta = Meta(
        recipe=recipe,
        rows=len(rows),
        sha256=content.hexdigest(),
        **found,
    )
    with writing(meta_path(path)) as file:
        sealed = seal(meta.model_dump())
        file.write(json.dumps(sealed, indent=2, ensure_ascii=False).encode() + b"\n")


def meta_path(path: Path) -> Path:
    """The sidecar beside an inputs file."""
    return path.with_suffix(".meta.json")


def read(path: Path, recipe: Recipe) -> Inputs:
    """Read the items that ``recipe`` makes.

    Raises
    ------
    FileNotFoundError : nothing was made by it yet.
    UserError : a file is damaged, was edited, or was made from something else.
    """
    sidecar = meta_path(path)
    try:
        meta = Meta.model_validate(unseal(parse(sidecar.read_text(encoding="utf-8"))))
        lines = path.read_bytes()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{sidecar} is damaged ({place}: {first['msg']})") from None
    except ValueError as error:
        raise UserError(f"{sidecar} is damaged ({error})") from None
    except FileNotFoundError:
        raise
    except NotADirectoryError:  # nothing lies below a file, and writing there will say so
        raise FileNotFoundError(path) from None
    except IsADirectoryError:
        raise UserError(f"{path} or its sidecar is a folder; move it away") from None
    except PermissionError:
        raise UserError(f"{path} or its sidecar may not be read; check its permissions") from None
    except OSError as error:
        raise UserError(f"{path} or its sidecar cannot be read ({error.strerror})") from None
    if meta.recipe != recipe:
        raise UserError(f"{sidecar} was made from something else than its name says")
    if hashlib.sha256(lines).hexdigest() != meta.sha256:
        raise UserError(f"{path} is not what its sidecar describes")
    return Inputs(path, meta, [_item(json.loads(line)) for line in lines.splitlines()])


def _item(row: dict[str, Any]) -> Item:
    tokens = row["tokens"]
    prompt = Prompt.join(tokens["prefix"], tokens["chunks"], tokens["question"])
    return Item(row["id"], row["answers"], prompt, row)
