"""Where a model comes from, whatever MODEL= names; and one clear line when it cannot be had."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from models.errors import UserError
from models.paths import user_path

ROOT = Path(__file__).resolve().parent.parent.parent
ALIASES = ROOT / "config" / "models.yaml"
_BAD_YAML = (OSError, yaml.YAMLError, RecursionError)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelSource:
    """A model that `MODEL=` names.

    `name` is its folder under inputs/, kvs/ and outputs/; `location` is a local Hugging Face folder
    (`is_local`) or a hub id.
    """

    name: str
    location: str
    is_local: bool


class AliasInfo(NamedTuple):
    """Where an alias leads, and whether its weights are already on this machine."""

    origin: str
    present: bool


def cache_dir() -> Path:
    """The folder of converted models and other reusable work: `KVFUSE_CACHE`, or `.cache` here."""
    given = os.environ.get("KVFUSE_CACHE")
    return user_path(given, "KVFUSE_CACHE=").absolute() if given else ROOT / ".cache"


def check(model: str) -> str:
    """What `model` names: "alias", "gguf", "folder" or "hub"; nothing is loaded or converted.

    Raises `UserError` for anything that is not an alias of config/models.yaml (with its package
    installed), a folder with a `config.json`, a `.gguf` file, or an `org/name` hub id. The network
    is not touched, so whether a hub id exists shows when it is loaded.
    """
    model, aliases = model.strip(), _aliases()
    path = user_path(model, "MODEL=")
    if not model:
        raise UserError("no model named: set MODEL= to an alias such as smollm2-135m (make help)")
    if model in aliases:
        package = aliases[model].get("pack")
        if package and _pack_gguf(package) is None:
            raise UserError(
                f"model '{model}' is in the package {package}, not installed here: run make setup"
            )
        return "alias"
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"model '{path}': no such .gguf file")
        return "gguf"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"model folder '{path}' holds no config.json: name a Hugging Face model folder"
            )
        return "folder"
    if path.is_file():
        raise UserError(
            f"model '{model}' is a file, but not a .gguf: name the folder that holds it"
        )
    if _HUB_ID.fullmatch(model):
        return "hub"
    if "/" in model or model.startswith((".", "~")):
        raise UserError(f"model '{model}': no such folder, and not a hub id of the form org/name")
    near = difflib.get_close_matches(model.lower(), aliases, n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    raise UserError(
        f"unknown model '{model}' ({hint}make doctor and config/models.yaml list the aliases; "
        "a hub id org/name, a local folder or a .gguf file works too)"
    )


def resolve(model: str) -> ModelSource:
    """The source that `model` names; a `.gguf` file is converted on first use.

    Raises `UserError` as `check` does, and for a `.gguf` file that cannot be converted.
    """
    kind, model = check(model), model.strip()
    if kind == "alias":
        return _from_alias(model, _aliases()[model])
    if kind == "gguf":
        return _from_gguf(user_path(model, "MODEL="))
    if kind == "folder":
        return _from_folder(user_path(model, "MODEL="))
    return ModelSource(model.replace("/", "--"), model, is_local=False)


def fetch(source: ModelSource, load: Callable[..., Any], **options: Any) -> Any:
    """`load(source.location, local_files_only=..., **options)`, quietly: a `from_pretrained`.

    A hub that cannot be reached, or refuses us, still leaves what is cached; asking it once first
    spares the libraries' retries, 46 s for each file. Raises `UserError` for every failure.
    """
    trouble = None if source.is_local else hub_trouble(source.location)
    local_only = source.is_local or trouble is not None
    try:
        with quiet():
            return load(source.location, local_files_only=local_only, **options)
    except UserError:
        raise
    except Exception as error:  # the parsers of foreign files raise anything, bare `Exception` too
        raise UserError(_explain(source, error, trouble)) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No noise from transformers, the hub and PyTorch; bars only where stderr is a terminal."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub_logging.get_verbosity(), None
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


def alias_table() -> dict[str, AliasInfo]:
    """Every alias with its origin and whether it can be loaded without the network."""
    table = {}
    for alias, entry in _aliases().items():
        if "pack" in entry:
            table[alias] = AliasInfo(f"pack {entry['pack']}", _pack_gguf(entry["pack"]) is not None)
        else:
            table[alias] = AliasInfo(entry["hub"], _in_hub_cache(entry["hub"]))
    return table


def gguf_file(model: str) -> Path | None:
    """The GGUF file behind ``MODEL=``: a path to one, or the one in an alias's package, or None."""
    if model in _aliases():
        package = _aliases()[model].get("pack")
        return _pack_gguf(package) if package else None
    path = user_path(model, "MODEL=")
    return path if path.suffix.lower() == ".gguf" and path.is_file() else None


def _aliases() -> dict[str, dict[str, str]]:
    """config/models.yaml: alias -> {"hub": id} or {"pack": package}."""
    try:
        table = yaml.safe_load(ALIASES.read_text(encoding="utf-8"))
        for entry in table.values():
            (key,) = entry
            if key not in ("hub", "pack") or not isinstance(entry[key], str):
                raise ValueError(f"{entry} is neither a hub id nor a pack")
    except (*_BAD_YAML, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{ALIASES} must map aliases to {{hub: id}} or {{pack: package}}, one each ({reason}); "
            "mend the file"
        ) from None
    return table


def _from_alias(alias: str, entry: dict[str, str]) -> ModelSource:
    if "hub" in entry:
        return ModelSource(alias, entry["hub"], is_local=False)
    gguf = _pack_gguf(entry["pack"])
    assert gguf is not None, "check() has seen it"
    return ModelSource(alias, _from_gguf(gguf).location, is_local=True)


def _from_gguf(path: Path) -> ModelSource:
    from models.load.gguf import convert  # brings torch in, which listing and checking do not need

    folder = convert(path)
    return ModelSource(folder.name, str(folder), is_local=True)


def _from_folder(path: Path) -> ModelSource:
    folder = path.resolve()
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:6]
    return ModelSource(f"{folder.name}-{digest}", str(folder), is_local=True)


def _pack_gguf(package: str) -> Path | None:
    """The package's `.gguf`, found in its file list; the package itself is never imported."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def _in_hub_cache(repo: str) -> bool:
    """Whether the hub cache holds the configuration and every weight file of `repo`."""
    config = try_to_load_from_cache(repo, "config.json")
    if not isinstance(config, str):
        return False
    folder = Path(config).parent
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


@functools.cache
def hub_trouble(repo: str) -> Exception | None:
    """What stands between us and `repo` on the hub, asked once a process; None if nothing does."""
    try:
        HfApi().auth_check(repo)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        return error
    except HfHubHTTPError:  # it answers, if not to this question: a mirror
        return None
    except Exception as error:  # noqa: BLE001  whatever the HTTP library beneath raises
        return error
    return None


def _explain(source: ModelSource, error: Exception, trouble: Exception | None) -> str:
    """One line: why `source` cannot be had, and what to do.

    An `OSError` with the hub in `trouble` is a file missing from the cache; any other `error` is a
    fault of what is cached, whatever the hub's state.
    """
    if not isinstance(error, OSError):
        trouble = None
    chain: list[BaseException] = [trouble or error]
    while (
        cause := chain[-1].__cause__ or chain[-1].__context__
    ) is not None and cause not in chain:
        chain.append(cause)
    what, where = f"model '{source.name}'", source.location
    instead = "or use MODEL=smollm2-135m or a local folder"
    if any(isinstance(link, GatedRepoError) for link in chain):
        return (
            f"{what} is gated: accept its licence at https://huggingface.co/{where}, then run "
            f"`hf auth login` or set HF_TOKEN; {instead}"
        )
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return (
            f"{what}: there is no {where} on the hub (a private one needs `hf auth login` or "
            f"HF_TOKEN); check the name, {instead}"
        )
    if trouble or any(isinstance(link, LocalEntryNotFoundError) for link in chain):
        return f"{what}: the hub cannot be reached and {where} is not cached; go online, {instead}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{what} cannot be loaded from {where}: {reason[:300]}; mend it, or fetch it again"
