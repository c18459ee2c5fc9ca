"""A data set of the Hugging Face hub, kept as one Parquet file a revision."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi

from data.sources.own.library import quietly, reason
from models.atomic import writing
from models.errors import UserError
from models.load.source import cache_dir

PREFIX = "hub:"
TIMEOUT = 10.0
# What is asked where no split is named: tests often come without answers.
_SPLITS = ("validation", "dev", "test", "train")
_SPEC = re.compile(r"hub:([\w.-]+/[\w.-]+)((?::(?:\w[\w.-]*)?){0,2})", re.ASCII)


class Copy(NamedTuple):
    """A file of rows, and `where` they come from: repository, revision and split."""

    path: Path
    where: str


def fetch(spec: str) -> Copy:
    """The rows that `hub:owner/name[:config][:split]` means, at the hub's revision of now.

    A revision that is here already is not fetched again; where the hub cannot be asked, the last
    one fetched serves. One name alone is a configuration if there is one of that name, else a
    split; without a split it is validation, dev, test or train. Raises UserError where the
    data set, its configuration or its split cannot be had.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"DATASET={spec}: write hub:owner/name, and perhaps :config:split after it")
    repo, named = match[1], match[2].split(":")[1:]
    folder = cache_dir() / "datasets" / repo.replace("/", "--") / ("--".join(named) or "default")
    try:
        revision = _revision(repo)
    except Exception as error:  # noqa: BLE001  whatever the HTTP library beneath raises
        held = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        if not held:
            raise UserError(
                f"{spec} cannot be had from the hub ({reason(error)}); check the name, or go online"
            ) from None
        return _copy(repo, held[-1])
    held = list(folder.glob(f"{revision}.*.parquet"))
    return _copy(repo, held[0] if held else _download(spec, repo, revision, named, folder))


def _copy(repo: str, path: Path) -> Copy:
    revision, split = path.name.removesuffix(".parquet").split(".", 1)
    return Copy(path, f"{repo}@{revision}, {split}")


@cache
def _revision(repo: str) -> str:
    """The hub's own answer, asked once a process: all that is read has one revision."""
    return str(HfApi().dataset_info(repo, timeout=TIMEOUT).sha)


def _download(spec: str, repo: str, revision: str, named: list[str], folder: Path) -> Path:
    address = f"hf://datasets/{repo}"  # a folder here may have the repository's name
    root = cache_dir() / "datasets"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as fresh, quietly() as datasets:
        try:
            config, split = (*named, "", "")[:2]
            if len(named) == 1 and config not in datasets.get_dataset_config_names(
                address, revision=revision
            ):
                config, split = "", config
            found = datasets.load_dataset(
                address, config or None, revision=revision, cache_dir=fresh
            )
            chosen = _split(spec, found, split)
            path = folder / f"{revision}.{chosen}.parquet"
            with writing(path) as file:
                found[chosen].to_parquet(file)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  the library raises what its readers raise
            raise UserError(f"{spec} cannot be fetched ({reason(error)})") from None
    return path


def _split(spec: str, found: dict[str, Any], named: str) -> str:
    wanted = [named] if named else [split for split in _SPLITS if split in found] or list(found)
    if wanted[0] not in found:
        raise UserError(f"{spec} has no {wanted[0]}; it has {', '.join(found)}")
    return wanted[0]
