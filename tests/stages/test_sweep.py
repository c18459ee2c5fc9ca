"""``python -m eval.sweep``: the grid, what its points share, and that they equal ``eval``'s."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from matplotlib.image import imread

from eval.evaluator import Evaluator
from models.engine import Engine
from models.kv.store import StoredItem
from tests.stages.harness import (
    Workplace,
    make_rows,
    points,
    records,
    strict,
    sweep_of,
    write_rows,
)

RATELESS = ["no", "full", "cat", "epic:lego_k=3"]
RATED = [
    "random",
    "tail_ratio",
    "epic",
    "blend",
    "blend:filter_layers=3",
    "debug",
    "debug:check=cached",
    "blend_debug",
    "attnlink",
    "surprisal_chunk",
    "prophet",
    *(ORACLES := ["oracle_kv", "oracle_attn"]),
]
RATES = [0.0, 0.3, 1.0]
ITEMS = 4
SETTINGS = ("--limit", ITEMS, "--max-new-tokens", 12)
SAME = ("prediction", "score", "kl_first", "kl_mean", "top1_agreement", "full_score")
CHOICE = ("recomputed", "selected", "selected_sha256")


@dataclass
class Swept:
    """A finished sweep, what it printed, and how often it did what costs most."""

    place: Workplace
    out: str
    calls: Counter
    stops: set[int]

    @property
    def content(self):
        return sweep_of(self.place)

    def of(self, method: str, rate: float | None = None):
        return records(points(self.content)[method, rate])


def counted(patch: pytest.MonkeyPatch, calls: Counter) -> None:
    """Count full prefills by item, answers decoded from the first token on, and KV loads by item.

    A fused prefill's rows are never all of the prompt: its prefix is not computed.
    """
    prefill, decode, cold = Engine.full_prefill, Engine.decode, StoredItem.cold

    def full_prefill(self, prompt):
        calls["full prefill", prompt.sha256()] += 1
        return prefill(self, prompt)

    def decoded(self, found, max_new_tokens, stop_ids, given=()):
        calls["decode", len(found.recomputed) == found.length, not given] += 1
        return decode(self, found, max_new_tokens, stop_ids, given)

    def loaded(self, watch, target):
        calls["load", self.folder.name] += 1
        return cold(self, watch, target)

    patch.setattr(Engine, "full_prefill", full_prefill)
    patch.setattr(Engine, "decode", decoded)
    patch.setattr(StoredItem, "cold", loaded)


def stop_often(patch: pytest.MonkeyPatch, stops: set[int]) -> None:
    """Let one token in five end an answer, so that answers end before their length does."""
    original = Evaluator.__init__

    def init(self, session, config, variants):
        original(self, session, config, variants)
        self.answering.stops = self.answering.stops | stops

    patch.setattr(Evaluator, "__init__", init)


def without_results(place: Workplace, root: Path) -> Workplace:
    """A copy of inputs, KVs and the gate that was passed."""
    for folder in ("inputs", "kvs"):
        shutil.copytree(place.root / folder, root / folder)
    for gate in (place.root / "outputs").glob("*/gate.json"):
        (root / "outputs" / gate.parent.name).mkdir(parents=True)
        shutil.copy(gate, root / "outputs" / gate.parent.name)
    return Workplace(root, place.model, place.rows)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, scored) -> Swept:
    """Every method; half the items ask for what the full prefill answers, half for full reuse's."""
    root = tmp_path_factory.mktemp("swept")
    shutil.copytree(scored.root, root, dirs_exist_ok=True)
    place = Workplace(root, scored.model, scored.rows)
    calls, stops = Counter(), set(range(0, 512, 5))
    with pytest.MonkeyPatch.context() as patch:
        stop_often(patch, stops)
        place.ok("eval", "--reuse", "no", "full", *SETTINGS)
        rows = make_rows(5)
        for i in range(ITEMS):
            found = place.result(["no", "full"][i % 2])["items"][i]
            rows[i]["answers"] = [found["prediction"]]
        place.rows = write_rows(root / "rows", rows)
        place = without_results(place, root / "swept")
        counted(patch, calls)
        reuse = [*RATELESS, *RATED]
        out = place.ok("sweep", "--reuse", *reuse, "--rate", *RATES, *SETTINGS).out
    return Swept(place, out, calls, stops)


# What it leaves


def test_the_grid_has_every_method_at_every_rate_and_those_without_one_once(swept):
    rows = [(row["method"], row["rate"]) for row in swept.content["rows"]]
    assert rows == [
        *((method, None) for method in RATELESS),
        *((method, rate) for method in RATED for rate in RATES),
    ]
    assert swept.content["methods"] == [*RATELESS, *RATED]
    assert swept.content["rates"] == RATES


def test_the_files_of_a_sweep(swept):
    (folder,) = (swept.place.root / "outputs").glob("*/*/sweep-*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "sweep.json",
        "sweep.png",
        "sweep.txt",
    ]
    assert imread(folder / "sweep.png").ndim == 3
    text = (folder / "sweep.txt").read_text(encoding="utf-8")
    assert text in swept.out
    assert str(folder) in swept.out
    table = text[text.index("\nmethod") :].splitlines()[2:]
    shown = [line.split()[0].rstrip("*") for line in table[: len(swept.content["rows"])]]
    assert shown == [row["method"] for row in swept.content["rows"]]


def test_sweep_json_has_the_keys_that_scripts_read(swept):
    assert set(swept.content) == {
        *("note", "environment", "config", "n", "available", "suite", "group", "metric"),
        *("full_score", "tokens", "answers_kept"),
        *(
            "full_prefill_ms",
            "load_ms",
            "answers_kept",
            "seed",
            "resamples",
            "methods",
            "rates",
            "rows",
        ),
        *("comparisons", "differences", "overlaps", "alarms"),
    }
    assert (swept.content["n"], swept.content["available"]) == (ITEMS, 5)
    assert swept.content["config"]["max_new_tokens"] == 12
    assert "method" not in swept.content["config"]
    for row in swept.content["rows"]:
        assert row.keys() >= {"oracle", "options", "retention", "delta_kv", "delta_attn"}
        for name in ("score", "kl_first", "kl_mean", "top1_agreement"):
            low, high = row[f"{name}_ci95"]
            assert low - 1e-9 <= row[name] <= high + 1e-9
        assert len(row["delta_kv"]) == len(row["delta_attn"]) == 4
    assert all(alarm["line"] in swept.out for alarm in swept.content["alarms"])


def test_every_point_is_a_whole_run(swept):
    for (method, rate), folder in points(swept.content).items():
        result = strict((folder / "result.json").read_text(encoding="utf-8"))
        assert result["config"]["method"] == method
        assert result["config"]["options"].get("rate") == rate
        assert [item["id"] for item in result["items"]] == swept.place.ids()[:ITEMS]
        assert result["items"] == records(folder)
        assert method in (folder / "result.txt").read_text(encoding="utf-8")


def test_a_point_of_the_table_is_its_run(swept):
    for row in swept.content["rows"]:
        found = records(Path(row["folder"]))
        for name in ("score", "kl_first", "kl_mean", "top1_agreement"):
            assert row[name] == pytest.approx(sum(item[name] for item in found) / ITEMS)
    assert len({row["score"] for row in swept.content["rows"]}) > 2  # there is something to see


# What is shared


def test_full_prefills_answers_and_loads_are_done_once_an_item(swept):
    """However many methods; once more for the first item, which warms up."""
    once = [1] * (ITEMS - 1) + [2]
    for what in ("full prefill", "load"):
        assert sorted(n for key, n in swept.calls.items() if key[0] == what) == once
    assert swept.calls["decode", True, True] == ITEMS + 1
    assert swept.calls["decode", False, True] == 0


def test_the_load_is_measured_and_the_same_for_all(swept):
    assert swept.content["load_ms"] > 0
    assert f"; {swept.content['load_ms']:.0f} ms to read KVs from disk" in swept.out
    for place in range(ITEMS):
        loads = [records(folder)[place]["load_ms"] for folder in points(swept.content).values()]
        found = {ms for ms in loads if ms is not None}
        assert loads.count(None) == 1  # the full prefill's
        assert len(found) == 1
        assert found.pop() > 0


# What it finds


@pytest.mark.parametrize("method", RATED)
def test_nothing_recomputed_is_full_reuse(swept, method):
    for ours, full in zip(swept.of(method, 0.0), swept.of("full"), strict=True):
        assert [ours[name] for name in CHOICE] == [full[name] for name in CHOICE]
        assert (ours["prediction"], ours["score"]) == (full["prediction"], full["score"])
        for name in ("kl_first", "kl_mean"):
            assert ours[name] == pytest.approx(full[name], abs=1e-5)
        for name in ("delta_kv", "delta_attn"):
            assert ours[name] == pytest.approx(full[name], abs=1e-5)


@pytest.mark.parametrize("method", RATED)
def test_everything_recomputed_is_the_full_prefill(swept, method):
    for ours, no in zip(swept.of(method, 1.0), swept.of("no"), strict=True):
        assert (ours["prediction"], ours["score"]) == (no["prediction"], no["score"])
        assert max(ours["kl_first"], ours["kl_mean"]) < 1e-6
        assert ours["top1_agreement"] == 1
        assert max(*ours["delta_kv"], *ours["delta_attn"]) < 1e-4
        assert ours["recomputed"] == ours["documents"] + ours["question_tokens"]
        assert ours["selected"] == no["selected"]


def test_a_sweep_says_what_eval_says(swept, tmp_path, monkeypatch):
    """Answers, too, though a sweep decodes only from where one leaves the full prefill's."""
    stop_often(monkeypatch, swept.stops)
    place = without_results(swept.place, tmp_path / "copy")
    place.ok("eval", "--reuse", *RATELESS, *RATED, "--rate", 0.3, *SETTINGS)
    folders = {label.replace("+", ":"): folder for label, folder in place.runs().items()}
    answers = Counter()
    for method in [*RATELESS, *RATED]:
        ours = swept.of(method, 0.3 if method in RATED else None)
        for left, right in zip(ours, records(folders[method]), strict=True):
            names = (*SAME, *CHOICE)
            assert [left[name] for name in names] == [right[name] for name in names]
            answers[left["prediction"]] += 1
    assert len(answers) > 10


def test_oracles_have_no_times(swept):
    for method in ORACLES:
        for record in swept.of(method, 0.3):
            assert record["ttft_ms"] == {"cold": None, "ready": None}
            names = ("ttft_parts_ms", "ttft_parts_ready_ms", "tpot_ms", "flop_limit")
            assert [record[name] for name in names] == [None] * 4
        line = next(
            x for x in swept.out.splitlines() if x.startswith(f"{method}*") and " 0.3 " in x
        )
        assert line.split()[:7] == [f"{method}*", "sink", "0.3", "-", "-", "-", "-"]
        row = next(row for row in swept.content["rows"] if row["method"] == method)
        names = ("ttft_ready_ms", "select_ms", "speedup_ready", "flop_limit")
        assert [row[name] for name in names] == [None] * 4


def test_methods_have_times_and_share_no_cold_one(swept):
    for method in ["full", "cat", "surprisal_chunk", "attnlink"]:
        for record in swept.of(method, 0.3 if method in RATED else None):
            assert record["ttft_ms"]["ready"] > 0
            assert record["ttft_ms"]["cold"] is record["ttft_parts_ms"] is None
            assert record["ttft_parts_ready_ms"]["load"] == 0


def test_scores_are_in_memory_before_the_first_rate_asks_for_them(swept, tmp_path, monkeypatch):
    """Else the lowest rate alone would pay for reading them."""
    place = without_results(swept.place, tmp_path / "copy")
    read, fused, inside = StoredItem._read, Engine.fused_prefill, []

    def fused_prefill(self, *args):
        inside.append(True)
        found = fused(self, *args)
        inside.pop()
        return found

    def read_file(self, kind, verify=False):
        assert not inside
        return read(self, kind, verify)

    monkeypatch.setattr(Engine, "fused_prefill", fused_prefill)
    monkeypatch.setattr(StoredItem, "_read", read_file)
    place.ok("sweep", "--reuse", "surprisal_chunk", "attnlink", "--rate", 0.2, "--limit", 2)
