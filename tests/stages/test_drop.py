"""``DROP=``: policies beside each other, with the full prefill and with fused ones."""

from __future__ import annotations

import math

import pytest

from eval.config import SweepConfig
from eval.variants import method_options
from models import eviction
from stage.options import options_of
from tests.stages.harness import Workplace, line_of, records, refused, timeless
from tests.stages.test_kill import copy_of

REUSE = ("--reuse", "debug", "no", "--max-new-tokens", 6)
POLICIES = [name for name in eviction.names() if name != eviction.NONE]
RUN_BY = {"drop", "drop_options", "drop_code"}


@pytest.fixture(scope="module")
def dropped(prepared, tmp_path_factory) -> Workplace:
    place = copy_of(prepared, tmp_path_factory.mktemp("dropped"), "inputs", "kvs")
    place.ok("eval", *REUSE, "--drop", "none", *POLICIES, "--keep", 0.4, "--budget", 30)
    return place


def test_every_policy_has_a_run_beside_that_without_one(dropped):
    runs = dropped.runs()
    assert set(runs) == {
        method + (f"+drop={name}" if name else "")
        for method in ("no", "debug")
        for name in ["", *(f"{policy}+keep=0.4+budget=30" for policy in POLICIES)]
    }
    for method in ("no", "debug"):
        plain = dropped.result(method)
        whole = {record["id"]: record["kv_bytes"] for record in plain["items"]}
        assert plain["config"]["drop"] == "none"
        assert plain["evict_ms"] == 0
        for policy in POLICIES:
            found = dropped.result(f"{method}+drop={policy}+keep=0.4+budget=30")
            assert found["config"]["drop"].startswith(policy)
            assert found["config"]["drop_options"]["budget"] == 30
            assert found["config"]["drop_code"]
            assert math.isfinite(found["kl_mean"])
            for record in found["items"]:
                parts = record["tpot_parts_ms"]
                assert record["tpot_ms"] == pytest.approx(sum(parts.values()))
                share = record["kv_bytes"] / whole[record["id"]]
                if record["evictions"]:
                    assert record["evict_ms"] > 0
                    assert parts["evict"] > 0
                assert share == pytest.approx(min(1.0, 30 / record["tokens"])) or policy == "rkv"
                assert record["kl_first"] == next(
                    r["kl_first"] for r in plain["items"] if r["id"] == record["id"]
                )


def test_what_is_kept_whole_is_what_no_policy_leaves(ready, tmp_path):
    """A share of 1 is no eviction: every figure but times is that of the run without one."""
    place = copy_of(ready, tmp_path, "inputs", "kvs")
    place.ok("eval", *REUSE, "--drop", "none", *POLICIES, "--keep", 1)
    for method in ("no", "debug"):
        plain = list(map(timeless, records(place.runs()[method])))
        for policy in POLICIES:
            found = records(place.runs()[f"{method}+drop={policy}+keep=1.0"])
            assert list(map(timeless, found)) == plain


def test_the_table_names_times_and_bytes(dropped):
    out = dropped.ok("eval", *REUSE, "--drop", "none", "knorm", "--keep", 0.4, "--budget", 30).out
    head = next(line for line in out.splitlines() if line.startswith("method  "))
    assert "TPOT ms" in head
    assert "evict" in head
    assert "KV MB" in head


def test_a_run_that_was_cut_short_ends_with_the_same_answers(dropped, tmp_path, monkeypatch):
    place = copy_of(dropped, tmp_path, "inputs", "kvs")
    again = ("--drop", "rkv:budget=30:buffer=2", "snapkv:budget=30")
    place.ok("eval", *REUSE, *again)
    alone = copy_of(dropped, tmp_path / "alone", "inputs", "kvs")
    for word in again[1:]:
        alone.ok("eval", *REUSE, "--drop", word)
    for name, folder in place.runs().items():
        found = list(map(timeless, records(folder)))
        assert found == list(map(timeless, records(alone.runs()[name])))


def test_options_come_from_a_file_and_the_line_goes_before_it(dropped, tmp_path):
    place = copy_of(dropped, tmp_path, "inputs", "kvs")
    preset = tmp_path / "preset.yaml"
    preset.write_text("budget: 25\nobserve: 4\n")
    config = ("--limit", 1, "--reuse", "no", "--drop-config", preset)
    place.ok("eval", *config, "--drop", "snapkv", "knorm", "--observe", 6)
    options = {name: place.result(name)["config"]["drop_options"] for name in place.runs()}
    assert options["no+drop=knorm:budget=25".replace(":", "+")]["budget"] == 25
    snap = options["no+drop=snapkv+budget=25+observe=6"]
    assert (snap["budget"], snap["observe"]) == (25, 6)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("budget: 25\nblck: 4\n", ("snapkv",), "blck is an option of none of DROP='snapkv'"),
        ("budget: many\n", ("snapkv",), "budget takes int, not 'many'"),
        ("- 4\n", ("snapkv",), "must hold options"),
        ("a: [", ("snapkv",), "is no YAML"),
        (None, ("snapkv",), "cannot be read"),
        ("budget: 25\n", ("none",), "is an option of none of DROP='none'"),
    ],
)
def test_a_bad_file_is_told_in_one_line(ready, tmp_path, text, words, said):
    preset = tmp_path / "preset.yaml"
    if text is not None:
        preset.write_text(text)
    assert said in refused(ready, "eval", *REUSE, "--drop", *words, "--drop-config", preset)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--drop", "snapk"), "did you mean snapkv"),
        (("--drop", "snapkv:keep=0"), "KEEP=0.0 must be above 0"),
        (("--drop", "none:keep=1"), "evicts nothing, has no options"),
        (("--drop", "knorm", "--block", 4), "BLOCK= is an option of none of"),
    ],
)
def test_a_bad_policy_is_told_in_one_line(ready, words, said):
    assert said in line_of(ready.run("eval", *REUSE, *words), "eval")


OWN = """
from dataclasses import dataclass
from models.eviction import BasePolicy, option

@dataclass
class Policy(BasePolicy):
    seed: int = option(0, "what it begins with")

    def score(self, rows):
        return rows.keys.float().norm(dim=-1)
"""


def test_a_variable_means_one_thing(ready, tmp_path):
    """An option with the name of a command's own could not be told from it on the line."""
    assert not options_of(SweepConfig).keys() & {
        each.name for each in method_options(SweepConfig())
    }
    mine = tmp_path / "mine.py"
    mine.write_text(OWN)
    said = refused(ready, "eval", "--reuse", "no", "--drop", mine, "--seed", 3)
    assert "SEED= is the command's own" in said
    place = copy_of(ready, tmp_path, "inputs", "kvs")
    place.ok("eval", "--reuse", "no", "--drop", f"{mine}:seed=3", "--limit", 1)
