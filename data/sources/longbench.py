"""LongBench rows from a folder or from the hub's data.zip, checked line by line."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from data.jsonl import objects, opened
from models.errors import UserError

# The organisation was renamed; the old name redirects only as long as the hub keeps it.
HUB_REPOS = ("THUDM/LongBench", "zai-org/LongBench")
HUB_FILE = "data.zip"
HUB_TIMEOUT = 5.0

_ENDINGS = ("", ".gz", ".xz", ".bz2")
_FIELDS = ("input", "context", "answers", "length", "dataset", "language", "all_classes", "_id")


class HubUnavailable(Exception):
    """The hub's copy cannot be had from here; the message says why."""


def from_folder(folder: Path, task: str) -> tuple[list[dict], str]:
    """A task's rows and their file, from `<task>.jsonl[.gz|.xz|.bz2]` or a data.zip in `folder`.

    A data.zip given in the folder's place, or unpacked in it, serves too. Raises UserError where
    there is no such folder, where it lacks the task (listing what it has), or where a row is bad.
    """
    if folder.is_file() and zipfile.is_zipfile(folder):
        return from_zip(folder, task), str(folder)
    if not folder.is_dir():
        raise UserError(f"LONGBENCH_DIR={folder} is not a folder; name one that holds {task}.jsonl")
    for path in (folder / sub / f"{task}.jsonl{end}" for sub in ("", "data") for end in _ENDINGS):
        if path.is_file():
            return read_jsonl(path), str(path)
    if (folder / HUB_FILE).is_file():
        return from_zip(folder / HUB_FILE, task), str(folder / HUB_FILE)
    held = sorted({path.name for path in folder.glob("*.jsonl*")})
    raise UserError(
        f"LONGBENCH_DIR={folder} has no {task}.jsonl (plain, .gz, .xz or .bz2) and no {HUB_FILE}; "
        f"it holds {_listed(held)}"
    )


def from_hub(task: str) -> tuple[list[dict], str]:
    """A task's rows and `<repository>@<revision>`, from the hub's data.zip (cached).

    Raises HubUnavailable when no copy is cached and none can be fetched (at once under
    HF_HUB_OFFLINE, else in about HUB_TIMEOUT seconds), UserError when the copy is damaged.
    """
    repo, path = _hub_zip()
    # hf_hub_download answers .../snapshots/<revision>/data.zip.
    return from_zip(path, task), f"{repo}@{path.parent.name}"


def from_zip(path: Path, task: str) -> list[dict]:
    """A task's rows from `<task>.jsonl` inside a zip, in whatever folder; nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            if f"{task}.jsonl" not in members:
                held = sorted(name for name in members if name.endswith(".jsonl"))
                raise UserError(f"{path} has no {task}.jsonl; it holds {_listed(held)}")
            with archive.open(members[f"{task}.jsonl"]) as lines:
                return parse_rows(lines, f"{path}/{task}.jsonl")
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}); delete it and fetch it again") from None


def read_jsonl(path: Path) -> list[dict]:
    """The rows of one jsonl file, plain or compressed as its name says."""
    with opened(path) as lines:
        return parse_rows(lines, str(path))


def parse_rows(lines: Iterable[bytes], where: str) -> list[dict]:
    """Rows in LongBench's schema, from jsonl; raises UserError naming `where` and the bad line."""
    found = objects(lines, where, "fetch it again", "LongBench row")
    rows = [_row(row, here) for row, here in found]
    if not rows:
        raise UserError(f"{where} holds no rows; fetch it again")
    ids = [row["_id"] for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{where}: _id {twice!r} occurs twice; ids must differ")
    return rows


def _row(row: dict, where: str) -> dict:
    missing = [field for field in _FIELDS if field not in row]
    if missing:
        raise UserError(f"{where}: the row lacks {', '.join(missing)}; see LongBench's row format")
    for field in ("input", "context", "_id", "language"):
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} must be text, not {type(row[field]).__name__}")
    answers = row["answers"]
    if not (isinstance(answers, list) and answers and all(isinstance(a, str) for a in answers)):
        raise UserError(f"{where}: answers must be a list of at least one text")
    return row


def cached_zip() -> tuple[str, Path] | None:
    """The repository and local path of a data.zip that the hub's cache holds; no network."""
    for repo in HUB_REPOS:
        try:
            cached = hf_hub_download(repo, HUB_FILE, repo_type="dataset", local_files_only=True)
            return repo, Path(cached)
        except LocalEntryNotFoundError:
            continue
    return None


def _hub_zip() -> tuple[str, Path]:
    """The repository and local path of data.zip: the cached copy if there is one, else fetched."""
    if cached := cached_zip():
        return cached
    problem: Exception | None = None
    for repo in HUB_REPOS:
        try:
            # hf_hub_download alone would retry for half a minute where there is no network.
            url = hf_hub_url(repo, HUB_FILE, repo_type="dataset")
            get_hf_file_metadata(url, timeout=HUB_TIMEOUT)
            return repo, Path(hf_hub_download(repo, HUB_FILE, repo_type="dataset"))
        except HfHubHTTPError as error:
            problem = error
        except (HTTPError, OSError) as error:
            problem = error
            break
    reason = str(problem).strip() or type(problem).__name__
    raise HubUnavailable(reason.splitlines()[0].rstrip("."))


def _listed(held: list[str]) -> str:
    return (", ".join(held[:24]) + (", …" if len(held) > 24 else "")) or "no jsonl file"
