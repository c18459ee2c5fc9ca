"""Data sets of the hub, at the boundary of the network: what is asked, fetched and kept."""

from __future__ import annotations

from types import SimpleNamespace

import datasets as library
import pytest
from httpx2 import ConnectError

from data import datasets
from data.request import Request
from data.rows import digest, load_rows
from data.sources.own import hub
from models.errors import UserError

REQUEST = Request(measure=lambda row: 0, room=0)


def table(*questions: str) -> library.Dataset:
    rows = [
        {"question": text, "context": {"title": ["T"], "sentences": [["One.", " Two."]]}}
        for text in questions
    ]
    return library.Dataset.from_list(rows)


class Hub:
    """A hub with one data set of two configurations; counts what is fetched."""

    def __init__(self) -> None:
        self.revision, self.online = "a" * 40, True
        self.fetched: list[tuple[str | None, str]] = []
        self.configs = {
            "easy": {"train": table("Easy?"), "test": table("Test?")},
            "hard": {"train": table("Train?"), "validation": table("Valid?", "Again?")},
        }

    def dataset_info(self, repo: str, timeout: float) -> SimpleNamespace:
        if not self.online:
            raise ConnectError("no network")
        assert repo == "owner/name"
        return SimpleNamespace(sha=self.revision)

    def get_dataset_config_names(self, path: str, revision: str) -> list[str]:
        assert (path, revision) == ("hf://datasets/owner/name", self.revision)
        return list(self.configs)

    def load_dataset(self, path, name=None, revision=None, cache_dir=None):
        assert (path, revision) == ("hf://datasets/owner/name", self.revision)
        if name is None:
            raise ValueError(f"Config name is missing.\nPlease pick one of: {list(self.configs)}")
        self.fetched.append((name, revision))
        return library.DatasetDict(self.configs[name])


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """The hub, asked anew by every `load`, as by every process."""
    found = Hub()
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "HfApi", lambda: found)
    monkeypatch.setattr(library, "load_dataset", found.load_dataset)
    monkeypatch.setattr(library, "get_dataset_config_names", found.get_dataset_config_names)
    return found


def load(spec: str):
    hub._revision.cache_clear()
    (dataset,) = datasets.expand(spec)
    return load_rows(dataset, REQUEST)


def digest_of(spec: str) -> str:
    hub._revision.cache_clear()
    return digest(datasets.expand(spec)[0], REQUEST)


@pytest.mark.parametrize(
    ("spec", "questions", "split"),
    [
        ("hub:owner/name:hard", ["Valid?", "Again?"], "validation"),
        ("hub:owner/name:hard:train", ["Train?"], "train"),
        ("hub:owner/name:easy", ["Test?"], "test"),
    ],
)
def test_configuration_and_split(remote, spec, questions, split):
    found = load(spec)
    assert [row.question for row in found.rows] == questions
    assert [row.documents for row in found.rows] == [("T\nOne. Two.",)] * len(questions)
    assert (found.source, found.where) == (
        "hub",
        f"owner/name@{'a' * 40}, {split} (question, context)",
    )
    assert found.available == len(questions)


def test_one_name_alone_is_a_split_where_no_configuration_is_called_so(remote):
    remote.configs = {"test": {"train": table("Config?")}, "easy": {"test": table("No?")}}
    assert load("hub:owner/name:test").rows[0].question == "Config?"
    remote.revision = "b" * 40
    with pytest.raises(UserError, match=r"Config name is missing. Please pick one of: \['test'"):
        load("hub:owner/name:train")


def test_a_revision_is_fetched_once_and_a_later_one_anew(remote):
    spec = "hub:owner/name:hard"
    first = digest_of(spec)
    assert load(spec).rows[0].question == "Valid?"
    assert digest_of(spec) == first
    assert len(remote.fetched) == 1
    remote.revision, remote.configs["hard"] = "b" * 40, {"validation": table("Later?")}
    assert load(spec).rows[0].question == "Later?"
    assert digest_of(spec) != first
    assert len(remote.fetched) == 2


def test_without_a_network_the_last_one_serves(remote):
    spec, before = "hub:owner/name:hard", "hub:owner/name:easy"
    load(spec)
    told = digest_of(spec)
    remote.online = False
    assert load(spec).where == f"owner/name@{'a' * 40}, validation (question, context)"
    assert digest_of(spec) == told
    with pytest.raises(UserError, match=r"cannot be had from the hub \(no network\); check the na"):
        load(before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hub:owner", "write hub:owner/name, and perhaps :config:split"),
        ("hub:owner/name:a:b:c", "write hub:owner/name"),
        ("hub:owner/name:..", "write hub:owner/name"),
        ("hub:owner/name:hard:test", "has no test; it has train, validation"),
        ("hub:owner/name", "Config name is missing"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(remote, tmp_path, spec, message):
    with pytest.raises(UserError, match=message) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.parquet"))
