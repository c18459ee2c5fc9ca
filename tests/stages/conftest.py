"""The tiny model on disk, and workplaces that begin where a stage begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval import gating
from models.load.source import cache_dir
from tests.stages.forks import ForkServer
from tests.stages.harness import Workplace, gate_once, make_model, make_rows, write_rows

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> &amp; <!--"


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, kernels: None) -> Iterator[None]:
    """What is remembered of the tiny models goes with them; the kernels are those at hand."""
    folder = tmp_path_factory.mktemp("cache")
    if (at_hand := cache_dir() / "native").is_dir():
        (folder / "native").symlink_to(at_hand)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVFUSE_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def gates_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate runs once for all that decides it, but in its own tests and on broken models."""
    if not request.module.__name__.endswith(("test_gating", "test_not_finite")):
        monkeypatch.setattr(gating, "run", gate_once)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("longbench"), make_rows(5))


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, rows_folder: Path
) -> Workplace:
    """Inputs, KVs and one finished run; copied by tests, never changed."""
    workplace = Workplace(tmp_path_factory.mktemp("prepared"), model_folder, rows_folder)
    workplace.ok("chunk")
    workplace.ok("precompute")
    workplace.ok("eval", "--reuse", "full")
    return workplace


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, prepared: Workplace) -> Workplace:
    """The same with all that stage 2 can keep beside KVs; copied by tests, never changed."""
    root = tmp_path_factory.mktemp("scored")
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    workplace = Workplace(root, prepared.model, prepared.rows)
    workplace.ok("precompute", "--surprisal", "true", "--sinks", "true")
    return workplace


@pytest.fixture
def place(tmp_path: Path, model_folder: Path, rows_folder: Path) -> Workplace:
    """Nothing made yet."""
    (tmp_path / "work").mkdir()
    return Workplace(tmp_path / "work", model_folder, rows_folder)


@pytest.fixture
def ready(place: Workplace, prepared: Workplace) -> Workplace:
    """Inputs and KVs are there, and a run of ``full``."""
    shutil.copytree(prepared.root, place.root, dirs_exist_ok=True)
    return place


@pytest.fixture
def with_scores(place: Workplace, scored: Workplace) -> Workplace:
    """The same, with surprisal and sinks."""
    shutil.copytree(scored.root, place.root, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="session")
def forks() -> Iterator[Callable[..., int]]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Workplace:
    """Two groups of runs on texts that look like markup, and their page; read by tests only."""
    rows = make_rows(3)
    for row in rows:
        row["context"] = row["context"].replace("\n", f" {HOSTILE}\n", 1)
        row["input"] += f" {HOSTILE}"
        row["answers"] = [HOSTILE, "灯"]
    folder = write_rows(tmp_path_factory.mktemp("hostile"), rows)
    workplace = Workplace(tmp_path_factory.mktemp("reported"), model_folder, folder)
    methods = ["--reuse", "no", "full", "random", "debug", "epic", "oracle_kv", "--rate"]
    workplace.ok("precompute", "--surprisal", "true")
    workplace.ok("eval", *methods, "0.3")
    workplace.ok("sweep", *methods, "0.2", "0.5")
    workplace.ok("report", "--page", "1")
    return workplace
