"""A sweep that is repeated, cut short, enlarged or varied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eval.evaluator import Evaluator
from eval.folder import RunFolder
from eval.report import __main__ as report
from eval.report.config import ReportConfig
from models.engine import Engine
from tests.stages.harness import (
    Workplace,
    points,
    records,
    snapshot,
    sweep_of,
    timeless,
    undated,
)

METHODS = ["no", "full", "random", "debug:check=cached", "oracle_kv"]
RATES = ["0.1", "0.4"]
ITEMS = 3
POINTS = 2 + 3 * len(RATES)
GRID = ("--reuse", *METHODS, "--rate", *RATES, "--limit", ITEMS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, prepared) -> Workplace:
    """The grid, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    place = Workplace(root, prepared.model, prepared.rows)
    place.ok("sweep", *GRID)
    return place


@pytest.fixture
def done(whole, tmp_path) -> Workplace:
    """The same, to be changed."""
    shutil.copytree(whole.root, tmp_path / "done")
    return Workplace(tmp_path / "done", whole.model, whole.rows)


@contextmanager
def watched() -> Iterator[list[tuple[str, str, float | None]]]:
    """What is measured meanwhile: item, method and rate."""
    seen: list[tuple[str, str, float | None]] = []
    original = Evaluator.begin

    def begin(self, item, variant, reference):
        seen.append((item.id, variant.spec, variant.rate))
        return original(self, item, variant, reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "begin", begin)
        yield seen


def found(place: Workplace) -> dict[tuple[str, float | None], list[dict]]:
    """The latest sweep's records by method and rate, without times."""
    by_point = points(sweep_of(place)).items()
    local = {key: place.root / folder_in(folder) for key, folder in by_point}
    return {key: list(map(timeless, records(folder))) for key, folder in local.items()}


def folder_in(folder: Path) -> Path:
    """A run's folder below its workplace, which may be a copy of where it was made."""
    return Path(*folder.parts[folder.parts.index("outputs") :])


def assert_same(place: Workplace, other: Workplace) -> None:
    """The same records, in order, and the same statistics; times and places aside."""
    assert found(place) == found(other)
    assert undated(sweep_of(place)) == undated(sweep_of(other))


def measured(place: Workplace) -> dict[str, str]:
    """Hashes of all records."""
    return {name: text for name, text in snapshot(place.root).items() if "records" in name}


def interrupt_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C once so many records are on disk."""
    original, kept = RunFolder.append, []

    def append(self, record):
        original(self, record)
        kept.append(record)
        if len(kept) == count:
            raise KeyboardInterrupt

    patch.setattr(RunFolder, "append", append)


def test_a_second_sweep_measures_nothing(done, whole):
    before = measured(done)
    with watched() as seen:
        done.ok("sweep", *GRID)
    assert seen == []
    assert measured(done) == before
    for name in ("speedup_ready", "select_ms", "ttft_ready_ms"):
        ours, theirs = (sweep_of(place)["rows"] for place in (done, whole))
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert_same(done, whole)


@pytest.mark.parametrize("count", [POINTS - 1, POINTS, POINTS + 3, ITEMS * POINTS])
def test_a_sweep_cut_short_goes_on(ready, whole, count):
    """In the middle of an item, at its end, and after the last one."""
    with pytest.MonkeyPatch.context() as patch, watched() as first:
        interrupt_after(patch, count)
        outcome = ready.run("sweep", *GRID)
    assert outcome.code == 130
    assert len(first) >= count  # some may have waited for others to be decoded beside
    assert "what is finished is kept" in outcome.err
    assert not list((ready.root / "outputs").glob("*/*/sweep-*"))
    kept = {path: path.read_bytes() for path in (ready.root / "outputs").rglob("records.jsonl")}
    full_prefills = []
    original = Engine.full_prefill
    with pytest.MonkeyPatch.context() as patch, watched() as rest:
        patch.setattr(
            Engine,
            "full_prefill",
            lambda self, prompt: full_prefills.append(prompt) or original(self, prompt),
        )
        ready.ok("sweep", *GRID)
    assert len(set(first + rest)) == ITEMS * POINTS
    assert len(rest) == ITEMS * POINTS - count
    assert all(path.read_bytes().startswith(content) for path, content in kept.items())
    pending = len({item for item, _, _ in rest})
    assert len(full_prefills) == (pending + 1 if pending else 0)  # one to warm up
    assert_same(ready, whole)


def test_every_method_that_goes_on_is_warmed_up(ready, monkeypatch):
    """Also those that had finished the item at which the sweep was cut short."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, POINTS - 1)
        ready.run("sweep", *GRID)
    original, warmed = Evaluator.fuse, []

    def fuse(self, item, variant, reference):
        warmed.append(variant.spec)
        return original(self, item, variant, reference)

    monkeypatch.setattr(Evaluator, "fuse", fuse)
    ready.ok("sweep", *GRID)
    assert sorted(warmed[: len(METHODS) - 1]) == sorted(set(METHODS) - {"no"})


def test_a_larger_grid_goes_on_from_a_smaller_one(done, whole):
    smaller = sweep_of(done)
    with watched() as seen:
        done.ok(
            "sweep", "--reuse", *METHODS, "tail_ratio", "--rate", 0.7, *GRID[len(METHODS) + 2 :]
        )
    larger = found(done)
    assert {(method, rate) for _, method, rate in seen} == {
        *((method, 0.7) for method in METHODS[2:]),
        *(("tail_ratio", rate) for rate in (0.1, 0.4, 0.7)),
    }
    assert len(seen) == ITEMS * 6
    assert larger.items() >= found(whole).items()
    with watched() as seen:
        done.ok("sweep", *GRID)
    assert seen == []
    assert undated(sweep_of(done)) == undated(smaller)
    assert len(list((done.root / "outputs").glob("*/*/sweep-*"))) == 2


def test_the_same_seed_says_the_same_to_the_last_bit(done, whole):
    with watched() as seen:
        done.ok("sweep", *GRID, "--fresh", "true")
    assert len(seen) == ITEMS * POINTS
    assert_same(done, whole)
    assert sweep_of(done)["differences"]


def test_another_seed_changes_the_control_and_nothing_else(done, whole):
    done.ok("sweep", *GRID, "--seed", 1)
    ours, theirs = found(done), found(whole)
    assert ours.keys() == theirs.keys()
    for point, wanted in theirs.items():
        if point[0] == "random":
            assert all(
                a["selected_sha256"] != b["selected_sha256"]
                for a, b in zip(ours[point], wanted, strict=True)
            )
        else:
            assert ours[point] == wanted


def test_deviations_are_measured_unless_they_are_not_wanted(done, whole):
    before = found(done)
    done.ok("sweep", *GRID, "--deviation", "false")
    for point, items in found(done).items():
        for item, other in zip(items, before[point], strict=True):
            assert item["delta_kv"] is item["delta_attn"] is None
            assert len(other["delta_kv"]) == len(other["delta_attn"]) == 4
            names = item.keys() - {"delta_kv", "delta_attn"}
            assert {name: item[name] for name in names} == {name: other[name] for name in names}
    assert all(row["delta_kv"] is row["delta_attn"] is None for row in sweep_of(done)["rows"])
    ours, theirs = sweep_of(done), sweep_of(whole)
    assert (ours["config"]["deviation"], theirs["config"]["deviation"]) == (False, True)
    for name in ("differences", "overlaps", "alarms"):
        assert undated(ours[name]) == undated(theirs[name])


def test_a_distance_that_rises_with_the_rate_raises_an_alarm(ready, monkeypatch):
    original = Evaluator.begin

    def begin(self, item, variant, reference):
        distance = {"debug": variant.rate, "random": 1 - (variant.rate or 0)}[variant.spec]
        found = original(self, item, variant, reference)
        found.record |= {"kl_mean": distance, "kl_first": 0.0}
        return found

    monkeypatch.setattr(Evaluator, "begin", begin)
    out = ready.ok("sweep", "--reuse", "debug", "random", "--rate", *RATES, "--limit", 2).out
    (alarm,) = sweep_of(ready)["alarms"]
    assert (alarm["method"], alarm["measure"], alarm["rates"]) == ("debug", "kl_mean", [0.1, 0.4])
    line = "ALARM: debug: KL along the answer does not fall from rate 0.1 (0.1000) to 0.4 (0.4000)"
    assert alarm["line"].startswith(line)
    (folder,) = (ready.root / "outputs").glob("*/*/sweep-*")
    assert line in out
    assert line in (folder / "sweep.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("reuse", [["no"], ["full"], ["oracle_kv"], ["no", "cat"]])
def test_a_grid_of_almost_nothing(ready, reuse):
    ready.ok("sweep", "--reuse", *reuse, "--rate", 0.2, "--limit", 1)
    sweep = sweep_of(ready)
    assert [row["method"] for row in sweep["rows"]] == reuse
    assert (sweep["load_ms"] is None) == (reuse == ["no"])


def test_the_full_prefill_alone_needs_no_kvs(ready):
    shutil.rmtree(ready.root / "kvs")
    ready.ok("sweep", "--reuse", "no", "--limit", 1)


def test_rates_in_any_order_and_twice_are_one_grid(done):
    with watched() as seen:
        done.ok("sweep", *GRID[: len(METHODS) + 2], "0.4", "0.1", ".40", *GRID[-2:])
    assert seen == []
    assert len(list((done.root / "outputs").glob("*/*/sweep-*"))) == 1


def test_report_shows_the_runs_of_a_sweep(done, capsys):
    outputs = str(done.root / "outputs")
    config = ReportConfig(model=str(done.model), outputs=outputs, page=False)
    report.main(config)
    table = capsys.readouterr().out
    assert all(f"\n{name}" in table for name in ("debug:check=cached 0.4", "oracle_kv 0.1*"))
