"""chunk → precompute → eval on a tiny model: what is written, kept, rebuilt and reported."""

from __future__ import annotations

import json
import re
import shutil
from itertools import chain

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import datasets
from models.timing import PARTS
from tests.stages.harness import (
    DATASET,
    TIMES,
    Workplace,
    make_rows,
    records,
    snapshot,
    strict,
    timeless,
    write_rows,
)

METHODS = ["no", "full", "cat", "random", "debug", "blend"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, prepared) -> Workplace:
    """All methods, on copies of the prepared inputs and KVs."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(prepared.root, root, dirs_exist_ok=True)
    place = Workplace(root, prepared.model, prepared.rows)
    place.said = place.ok("eval", "--reuse", *METHODS).out
    return place


@pytest.fixture
def done(evaluated, tmp_path) -> Workplace:
    """The same, to be changed."""
    shutil.copytree(evaluated.root, tmp_path / "done")
    return Workplace(tmp_path / "done", evaluated.model, evaluated.rows)


# Results


@pytest.mark.parametrize("method", METHODS)
def test_the_summary_has_the_keys_that_scripts_read(evaluated, method):
    result = strict((evaluated.runs()[method] / "result.json").read_text())
    assert result["n"] == len(result["items"]) == 5
    assert result["metric"] == datasets.get(DATASET).metric
    assert result["gate"]["passed"] is True
    assert result["config"]["method"] == method
    assert result["environment"]["torch"] == torch.__version__
    numbers = [
        result["score"],
        result["kl_first"],
        result["top1_agreement"],
        *(
            result["ttft_ms"][when][what]
            for when in ("cold", "ready")
            for what in ("median", "p95")
        ),
        *(result["ttft_parts_ms"][part] for part in PARTS),
        result["full_prefill_ms"]["median"],
        result["speedup"]["cold"],
        result["speedup"]["ready"],
        result["flop_limit"],
        result["tpot_ms"]["median"],
    ]
    assert all(isinstance(number, float) for number in numbers)
    assert PARTS == (
        "load", "decode_kv", "transfer", "rotate", "select", "recompute", "correct", "head"
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_item_has_its_figures(evaluated, method):
    items = evaluated.result(method)["items"]
    assert [item["id"] for item in items] == evaluated.ids()
    assert items == records(evaluated.runs()[method])
    for item in items:
        assert {"score", "kl_first", "top1_agreement", "prediction", "answers"} <= item.keys()
        assert item.keys() >= TIMES
        assert item["kl_first"] >= 0
        assert 0 <= item["top1_agreement"] <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["cold", "ready"])
def test_parts_sum_to_the_total(evaluated, method, when):
    """Totals are measured by themselves: a busy machine may stretch one, but not most."""
    result = evaluated.result(method)
    name = {"cold": "ttft_parts_ms", "ready": "ttft_parts_ready_ms"}[when]
    totals = [item["ttft_ms"][when] for item in result["items"]]
    parts = [item[name] for item in result["items"]]
    hidden = sorted(1 - sum(p.values()) / total for p, total in zip(parts, totals, strict=True))
    assert hidden[0] > -1e-9
    assert hidden[2] < 0.02
    middle = sorted(totals)[2]
    assert result["ttft_ms"][when]["median"] == pytest.approx(middle)
    assert result[name] == pytest.approx(parts[totals.index(middle)])


@pytest.mark.parametrize("method", METHODS)
def test_a_cold_run_says_what_reading_took(evaluated, method):
    """What was waited for is part of the time to the first token, the rest of it is not."""
    for item in evaluated.result(method)["items"]:
        reading = item["reading"]
        assert (reading is None) == (method == "no")
        if reading:
            assert reading["bytes_per_s"] * reading["read_ms"] == pytest.approx(
                1e3 * item["kv_bytes"]
            )
            assert 0 <= reading["visible"] <= 1
            waited = reading["visible"] * reading["read_ms"]
            assert waited <= item["ttft_parts_ms"]["load"] * (1 + 1e-9)


def test_the_summary_is_the_arithmetic_of_its_items(evaluated):
    result = evaluated.result("debug")
    items = result["items"]

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    assert result["score"] == pytest.approx(sum(i["score"] for i in items) / 5)
    assert result["kl_first"] == pytest.approx(sum(i["kl_first"] for i in items) / 5)
    full = middle([i["full_prefill_ms"] for i in items])
    assert result["full_prefill_ms"]["median"] == pytest.approx(full)
    for when in ("cold", "ready"):
        ttft = middle([i["ttft_ms"][when] for i in items])
        assert result["ttft_ms"][when]["median"] == pytest.approx(ttft)
        assert result["speedup"][when] == pytest.approx(full / ttft)
    for name in ("score", "kl_first", "top1_agreement"):
        low, high = result[f"{name}_ci95"]
        assert low <= result[name] <= high


def test_the_full_prefill_is_its_own_measure(evaluated):
    result = evaluated.result("no")
    assert result["speedup"] == {"cold": 1.0, "ready": 1.0}
    assert result["flop_limit"] == 1.0
    assert (result["kl_first"], result["top1_agreement"]) == (0.0, 1.0)
    assert result["retention"] in (1.0, None)
    assert all(i["recomputed"] == i["tokens"] for i in result["items"])


def test_predictions_of_the_full_prefill_are_the_librarys(evaluated):
    model = AutoModelForCausalLM.from_pretrained(evaluated.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(evaluated.model)
    lines = [json.loads(line) for line in evaluated.inputs.read_text().splitlines()]
    for line, record in zip(lines, evaluated.result("no")["items"], strict=True):
        tokens = line["tokens"]
        ids = [*tokens["prefix"], *chain(*tokens["chunks"]), *tokens["question"]]
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=0,
        )
        text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert record["prediction"] == text


def test_how_much_every_method_recomputes(evaluated):
    for method in METHODS:
        for item in evaluated.result(method)["items"]:
            question = item["question_tokens"]
            documents = item["tokens"] - question - prefix_length(evaluated, item["id"])
            expected = {"no": item["tokens"], "full": question, "cat": 1}
            assert item["recomputed"] == expected.get(method, question + int(documents * 0.15))


def prefix_length(place: Workplace, item_id: str) -> int:
    lines = [json.loads(line) for line in place.inputs.read_text().splitlines()]
    return next(len(line["tokens"]["prefix"]) for line in lines if line["id"] == item_id)


def test_one_table_shows_all_methods(evaluated):
    table = evaluated.said[evaluated.said.index("\nmethod ") + 1 :]
    shown = [line.split()[0] for line in table.splitlines()[1 : len(METHODS) + 1]]
    assert shown == METHODS
    for method in METHODS:
        assert method in (evaluated.runs()[method] / "result.txt").read_text()


def test_everything_recomputed_is_the_full_prefill(done):
    done.ok("eval", "--reuse", "random", "debug", "blend", "--rate", "1")
    answers = [item["prediction"] for item in done.result("no")["items"]]
    for method in ("random", "debug", "blend"):
        result = done.result(method)
        assert result["config"]["options"]["rate"] == 1
        assert result["kl_first"] < 1e-6
        assert result["top1_agreement"] == 1
        assert [item["prediction"] for item in result["items"]] == answers


def test_random_is_seeded_by_run_and_item(place, tmp_path):
    """Twins under two ids: the control chooses anew for each, and the same again when repeated."""
    row = make_rows(1)[0]
    place.rows = write_rows(tmp_path / "twins", [row, row | {"_id": "twin"}])
    place.ok("chunk")
    place.ok("precompute")

    def chosen(method: str, *options: object) -> list[str]:
        place.ok("eval", "--reuse", "random", "debug", "--rate", "0.3", *options)
        return [item["selected_sha256"] for item in place.result(method)["items"]]

    first, twin = chosen("random")
    assert first != twin
    assert chosen("random", "--fresh", "true") == [first, twin]
    assert set(chosen("random", "--seed", "1")).isdisjoint([first, twin])
    assert len(set(chosen("debug"))) == 1


# Runs


def test_a_second_run_adds_nothing(done):
    before = {method: (path / "records.jsonl").read_bytes() for method, path in done.runs().items()}
    done.ok("eval", "--reuse", *METHODS)
    assert len(done.runs()) == len(METHODS)
    for method, content in before.items():
        assert (done.runs()[method] / "records.jsonl").read_bytes() == content


def test_fresh_does_it_all_again(done):
    old = records(done.runs()["debug"])
    done.ok("eval", "--reuse", "debug", "--fresh", "true")
    assert list(map(timeless, records(done.runs()["debug"]))) == list(map(timeless, old))
    assert records(done.runs()["debug"]) != old  # times are measured anew


def test_an_alias_is_the_same_run(done):
    before = snapshot(done.root / "outputs").keys()
    done.ok("eval", "--reuse", "a3", "cacheblend,debug")
    assert snapshot(done.root / "outputs").keys() == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--rate", "0.3"), {"random", "debug", "blend"}),
        (("--check-layer", "2"), {"debug", "blend"}),
        (("--blend-gap-source", "k"), {"blend"}),
        (("--max-new-tokens", "3"), set(METHODS)),
        (("--limit", "4"), set(METHODS)),
    ],
)
def test_a_run_is_named_from_the_options_that_change_it_and_no_others(done, options, named):
    before = {path.name for path in done.runs().values()}
    done.ok("eval", "--reuse", *METHODS, *options)
    after = {path.name for path in (done.root / "outputs").glob(f"*/{DATASET}/*")}
    assert before <= after
    assert {re.split("[-+]", name)[0] for name in after - before} == named


def test_a_method_with_options_of_its_own_is_another_run(done):
    before = set((done.root / "outputs").glob(f"*/{DATASET}/*"))
    specs = ["a3:check=cached", "debug:check_layer=1", "debug:check=cached,blend:filter_layers=2"]
    out = done.ok("eval", "--reuse", *specs, "--limit", 5).out
    made = {
        p.name.split("-r")[0] for p in set((done.root / "outputs").glob(f"*/{DATASET}/*")) - before
    }
    assert made == {"debug+check=cached", "blend+filter_layers=2"}
    assert done.result("debug+check=cached")["config"]["method"] == "debug:check=cached"
    assert "\ndebug:check=cached 0.15 " in out


def test_options_of_the_run_go_to_methods_that_say_nothing_of_their_own(done):
    done.ok("eval", "--reuse", "debug", "debug:check_layer=3", "--check-layer", "2", "--limit", 1)
    saved = [json.loads(p.read_text()) for p in (done.root / "outputs").glob("*/*/debug+*/config*")]
    options = [entry["config"]["options"]["check_layer"] for entry in saved]
    assert sorted(options) == [2, 3]


def test_an_oracle_is_marked_and_has_no_times(done):
    out = done.ok("eval", "--reuse", "no", "random", "oracle_kv", "--limit", 2).out
    result = strict((done.runs()["oracle_kv"] / "result.json").read_text())
    assert result["oracle"] is True
    assert result["ttft_ms"] == result["speedup"] == {"cold": None, "ready": None}
    names = ("ttft_parts_ms", "ttft_parts_ready_ms", "select_ms", "flop_limit")
    assert [result[name] for name in names] == [None] * 4
    assert result["tpot_ms"] == {"median": None}
    line = next(line for line in out.splitlines() if line.startswith("oracle_kv 0.15*"))
    assert line.split()[2:9] == ["sink", *["-"] * 6]
    assert "an upper bound" in out


def test_deviation_is_measured_where_it_is_asked_for(done):
    plain = records(done.runs()["debug"])[:2]
    done.ok("eval", "--reuse", "debug", "--deviation", "true", "--limit", 2)
    for record, other in zip(records(done.runs()["debug"]), plain, strict=True):
        assert other["delta_kv"] is other["delta_attn"] is None
        assert len(record["delta_kv"]) == len(record["delta_attn"]) == 4
        names = timeless(record).keys() - {"delta_kv", "delta_attn"}
        assert {name: record[name] for name in names} == {name: other[name] for name in names}
    assert len(done.result("debug")["delta_kv"]) == 4


def test_a_smaller_limit_repeats_the_first_items(done):
    whole = records(done.runs()["debug"])
    done.ok("eval", "--reuse", "debug", "--limit", "2")
    assert list(map(timeless, records(done.runs()["debug"]))) == list(map(timeless, whole[:2]))


def test_results_do_not_depend_on_which_methods_run_together(done, prepared, place):
    shutil.copytree(prepared.root, place.root, dirs_exist_ok=True)
    place.ok("eval", "--reuse", "blend")
    alone = records(place.runs()["blend"])
    assert list(map(timeless, alone)) == list(map(timeless, records(done.runs()["blend"])))


def test_bfloat16_works_end_to_end(done):
    done.ok("precompute", "--dtype", "bfloat16")
    done.ok("eval", "--reuse", "no", "debug", "--dtype", "bfloat16")
    result = done.result("debug")
    assert result["config"]["dtype"] == "bfloat16"
    assert result["n"] == 5
    kv = torch.load(done.kv_files()[done.ids()[0]])["kv"]
    assert kv.dtype == torch.bfloat16
