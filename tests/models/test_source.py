"""What MODEL= may be, and the one line for what it may not; the hub is a fake that raises."""

import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from models.errors import UserError
from models.load import source
from models.load.source import ModelSource, alias_table, cache_dir, fetch, resolve

HUB = ModelSource("llama3-8b", "meta-llama/Meta-Llama-3-8B-Instruct", is_local=False)


def http_error(kind):
    request = httpx2.Request("GET", "https://huggingface.co/api")
    return kind("403 Client Error.\nsecond line", response=httpx2.Response(403, request=request))


@pytest.fixture
def hub(monkeypatch):
    """Set what the hub answers when asked for a repository: an exception, or None for access."""
    source.hub_trouble.cache_clear()

    def answer(error):
        def auth_check(self, repo):
            if error is not None:
                raise error

        monkeypatch.setattr(source.HfApi, "auth_check", auth_check)

    yield answer
    source.hub_trouble.cache_clear()


def test_aliases_lead_to_hub_ids_and_keep_their_name():
    assert resolve("llama3-8b") == HUB
    assert resolve(" mistral-7b ").location == "mistralai/Mistral-7B-Instruct-v0.3"


def test_every_alias_has_one_origin():
    table = alias_table()
    assert len(table) > 15
    assert all("/" in info.origin or info.origin.startswith("pack ") for info in table.values())


def test_a_hub_id_names_itself():
    assert resolve("org/some.model") == ModelSource("org--some.model", "org/some.model", False)


def test_a_local_folder_is_named_by_basename_and_path(tmp_path):
    folders = [tmp_path / side / "model" for side in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    names = [resolve(str(folder)).name for folder in folders]
    assert all(name.startswith("model-") and len(name) == len("model-") + 6 for name in names)
    assert names[0] != names[1]
    assert resolve(str(folders[0])) == ModelSource(names[0], str(folders[0].resolve()), True)


@pytest.mark.parametrize(
    ("model", "needles"),
    [
        ("", ["no model named", "smollm2-135m"]),
        ("   ", ["no model named"]),
        ("smolm2-135m", ["unknown model 'smolm2-135m'", "nearest: smollm2-135m", "make doctor"]),
        ("LLAMA3-8B", ["nearest: llama3-8b"]),
        ("zzzz", ["unknown model 'zzzz'", "make doctor"]),
        ("./no/such/folder", ["no such folder"]),
        ("a/b/c", ["no such folder"]),
        ("no-such.gguf", ["no such .gguf file"]),
        ("org/na me", ["no such folder"]),
    ],
)
def test_a_mistake_is_one_line(model, needles):
    with pytest.raises(UserError) as raised:
        resolve(model)
    assert "\n" not in str(raised.value)
    for needle in needles:
        assert needle in str(raised.value)


def test_a_folder_without_config_and_a_plain_file_are_told_apart(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(UserError, match=r"not a \.gguf"):
        resolve(str(tmp_path / "weights.bin"))


def test_a_missing_pack_says_make_setup(monkeypatch, tmp_path):
    aliases = tmp_path / "models.yaml"
    aliases.write_text("mini: {pack: no-such-distribution-of-kvfuse}\n")
    monkeypatch.setattr(source, "ALIASES", aliases)
    with pytest.raises(UserError, match="make setup"):
        resolve("mini")
    assert not alias_table()["mini"].present


def test_presence_needs_every_shard(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(
        source, "try_to_load_from_cache", lambda repo, name: str(tmp_path / "config.json")
    )
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert not alias_table()["llama3-8b"].present
    (tmp_path / "model-2.safetensors").touch()
    assert alias_table()["llama3-8b"].present


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KVFUSE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("KVFUSE_CACHE")
    assert cache_dir() == Path(source.ROOT, ".cache")


@pytest.mark.parametrize(
    ("trouble", "needles"),
    [
        (http_error(GatedRepoError), ["gated", "hf auth login", "HF_TOKEN", "smollm2-135m"]),
        (http_error(RepositoryNotFoundError), ["no meta-llama/", "HF_TOKEN"]),
        (httpx2.ConnectError("[Errno -2] unknown"), ["cannot be reached", "smollm2-135m"]),
        (httpx2.ReadTimeout("timed out"), ["cannot be reached"]),
        (OfflineModeIsEnabled("offline mode is enabled"), ["cannot be reached"]),
    ],
)
def test_hub_trouble_is_one_line_with_a_remedy(hub, trouble, needles):
    hub(trouble)
    seen = []

    def from_pretrained(location, local_files_only):
        seen.append(local_files_only)
        raise OSError("We couldn't connect\nto the hub") from LocalEntryNotFoundError("not cached")

    with pytest.raises(UserError) as raised:
        fetch(HUB, from_pretrained)
    assert seen == [True], "a hub in trouble is asked once, then only the cache"
    assert "\n" not in str(raised.value)
    for needle in needles:
        assert needle in str(raised.value)


@pytest.mark.parametrize(
    ("cause", "needle"),
    [
        (http_error(GatedRepoError), "gated"),
        (http_error(RepositoryNotFoundError), "no meta-llama/"),
        (LocalEntryNotFoundError("gone"), "cannot be reached"),
        (ValueError("config is\nbroken"), "config is broken"),
    ],
)
def test_trouble_while_loading_is_explained_by_its_cause(hub, cause, needle):
    hub(None)

    def from_pretrained(location, local_files_only):
        assert not local_files_only
        if isinstance(cause, ValueError):
            raise cause
        raise OSError("wrapped\nby transformers") from cause

    with pytest.raises(UserError) as raised:
        fetch(HUB, from_pretrained)
    assert needle in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("trouble", [http_error(GatedRepoError), httpx2.ConnectError("down")])
def test_what_is_cached_loads_without_the_hub(hub, trouble):
    hub(trouble)
    assert fetch(HUB, lambda location, local_files_only: (location, local_files_only)) == (
        HUB.location,
        True,
    )


def test_a_broken_cached_file_is_not_blamed_on_the_network(hub):
    hub(httpx2.ConnectError("down"))

    def from_pretrained(location, local_files_only):
        raise ValueError("unexpected key in config.json")

    with pytest.raises(UserError, match="unexpected key"):
        fetch(HUB, from_pretrained)


def test_a_mirror_that_does_not_know_the_question_is_still_used(hub):
    hub(http_error(HfHubHTTPError))
    assert fetch(HUB, lambda location, local_files_only: local_files_only) is False
