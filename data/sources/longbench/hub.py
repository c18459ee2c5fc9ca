"""LongBench's data.zip on the Hugging Face hub, or in its cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from data.sources.longbench.files import ZIP

# The organisation was renamed; the old name redirects only as long as the hub keeps it.
REPOS = ("THUDM/LongBench", "zai-org/LongBench")
TIMEOUT = 5.0
# The error of the HTTP library beneath, which is httpx or httpx2 by the hub library's version.
TROUBLE: tuple[type[BaseException], ...] = HfHubHTTPError.__bases__


class HubUnavailable(Exception):
    """The hub's copy cannot be had from here; the message says why."""


def cached_zip() -> tuple[str, Path] | None:
    """The repository and local path of a data.zip that the hub's cache holds; no network."""
    for repo in REPOS:
        try:
            cached = hf_hub_download(repo, ZIP, repo_type="dataset", local_files_only=True)
            return repo, Path(cached)
        except LocalEntryNotFoundError:
            continue
    return None


def hub_zip() -> tuple[str, Path]:
    """The repository and local path of data.zip: the cached copy if there is one, else fetched.

    Raises HubUnavailable when no copy is cached and none can be fetched (at once under
    HF_HUB_OFFLINE, else in about TIMEOUT seconds).
    """
    if cached := cached_zip():
        return cached
    problem: Exception | None = None
    for repo in REPOS:
        try:
            # hf_hub_download alone would retry for half a minute where there is no network.
            url = hf_hub_url(repo, ZIP, repo_type="dataset")
            get_hf_file_metadata(url, timeout=TIMEOUT)
            return repo, Path(hf_hub_download(repo, ZIP, repo_type="dataset"))
        except HfHubHTTPError as error:
            problem = error
        except TROUBLE as error:
            problem = Exception(str(error).strip() or type(error).__name__)
            break
    reason = str(problem).strip() or type(problem).__name__
    raise HubUnavailable(reason.splitlines()[0].rstrip("."))
