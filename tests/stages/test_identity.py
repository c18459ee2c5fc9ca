"""A run is what its code made: other source, another folder, and never the old one's figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval import runner
from eval.analysis.overlap import decode
from eval.evaluator import Evaluator
from models import selectors
from tests.stages.harness import Workplace, line_of, records, refused, timeless

SELECTOR = """
from dataclasses import dataclass

from models.selectors import BaseSelector, option


@dataclass
class Selector(BaseSelector):
    step: int = option(7, "distance")

    def select(self, probe):
        return probe.candidates[:: self.step][: probe.budget]
"""
BACKWARDS = SELECTOR.replace("probe.candidates[::", "probe.candidates[1::")
STAGES = {"eval": (), "sweep": ("RATE=.1",)}


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own" / "mine.py"
    path.parent.mkdir()
    path.write_text(SELECTOR, encoding="utf-8")
    return path


def folders(place: Workplace, method: str) -> set[Path]:
    return set((place.root / "outputs").glob(f"*/*/{method}-*"))


def contents(*roots: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for root in roots for path in root.rglob("records.jsonl")}


def chosen(folder: Path) -> list[str]:
    return [record["selected"] for record in records(folder)]


def identity(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_edited_selector_is_another_run_and_the_old_one_stays(ready, own, stage):
    """One character is another, within the same second; then it is as before."""
    call = (stage, *STAGES[stage], f"REUSE=random {own}")
    assert "\nmine " in ready.ok(*call).out
    (old,) = folders(ready, "mine")
    kept = contents(old)
    own.write_text(SELECTOR.replace("(7,", "(5,"), encoding="utf-8")
    out = ready.ok(*call).out
    (new,) = folders(ready, "mine") - {old}
    assert old.name not in out
    assert "resuming, 5 of 10 results are there" in out  # those of the control
    assert chosen(new) != chosen(old)
    assert identity(new)["method_code"] != identity(old)["method_code"]
    kept |= contents(new)
    own.write_text(SELECTOR, encoding="utf-8")
    out = ready.ok(*call).out
    assert contents(old, new) == kept
    assert new.name not in out
    assert folders(ready, "mine") == {old, new}
    assert len(folders(ready, "random")) == 1


def test_an_edit_during_a_run_is_not_what_made_its_records(ready, own, monkeypatch):
    original = Evaluator.begin

    def begin(self, item, variant, reference):
        own.write_text(BACKWARDS, encoding="utf-8")
        return original(self, item, variant, reference)

    monkeypatch.setattr(Evaluator, "begin", begin)
    ready.ok("eval", f"REUSE={own}")
    monkeypatch.undo()
    (old,) = folders(ready, "mine")
    for found in records(old):
        wanted = range(0, found["documents"], 7)[: int(found["documents"] * 0.15)]
        mask = decode(found["selected"], found["documents"])
        assert [place for place, bit in enumerate(mask) if bit] == list(wanted)
    out = ready.ok("eval", f"REUSE={own}").out
    (new,) = folders(ready, "mine") - {old}
    assert "resuming" not in out
    assert chosen(new) != chosen(old)
    own.write_text(SELECTOR, encoding="utf-8")
    before = contents(old)
    ready.ok("eval", f"REUSE={own}")
    assert contents(old) == before
    assert folders(ready, "mine") == {old, new}


@pytest.mark.parametrize("method", ["no", "full", "debug"])
def test_another_engine_is_another_run_and_going_back_finds_the_old(ready, monkeypatch, method):
    ready.ok("eval", f"REUSE={method}")
    (old,) = folders(ready, method)
    before = contents(old)
    monkeypatch.setattr(runner, "CODE", "0" * 12)
    out = ready.ok("eval", f"REUSE={method}").out
    (new,) = folders(ready, method) - {old}
    assert old.name not in out
    assert "resuming" not in out
    assert len(records(new)) == 5
    monkeypatch.undo()
    assert new.name not in ready.ok("eval", f"REUSE={method}").out
    assert contents(old) == before
    assert folders(ready, method) == {old, new}


def test_a_method_s_source_is_its_own_alone(ready, monkeypatch):
    """Editing one method costs the others nothing."""
    reuse = "REUSE=no full debug blend"
    ready.ok("eval", reuse)
    original = selectors.code_of
    monkeypatch.setattr(
        selectors,
        "code_of",
        lambda s: "0" * 12 if "debug" in type(s).__module__ else original(s),
    )
    ready.ok("eval", reuse)
    assert {name: len(folders(ready, name)) for name in ("no", "full", "debug", "blend")} == {
        "no": 1,
        "full": 1,
        "debug": 2,
        "blend": 1,
    }
    codes = {name: identity(path)["method_code"] for name, path in ready.runs().items()}
    assert codes["no"] is None
    assert len(set(codes.values())) == 4


CORRECTOR = """
from dataclasses import dataclass

from models.correctors import VALUES, BaseCorrector


@dataclass
class Corrector(BaseCorrector):
    def correct(self, change):
        return {VALUES: change.of(VALUES).mean(1)}
"""


def test_another_corrector_is_another_run(ready, tmp_path):
    call = ("eval", "REUSE=no full random")
    ready.ok(*call)
    (plain,) = folders(ready, "random")
    kept = contents(plain)
    assert identity(plain)["corrector"] == "none"
    own = tmp_path / "mean.py"
    own.write_text(CORRECTOR, encoding="utf-8")
    out = ready.ok(*call, f"CORRECT=none shift shift:what=both {own}").out
    assert rows(out) == [
        "no",
        "full",
        "full + shift",
        "full + shift:what=both",
        "full + mean",
        "random",
        "random + shift",
        "random + shift:what=both",
        "random + mean",
    ]
    assert contents(plain) == kept
    assert len(folders(ready, "no")) == 1
    (shift,) = folders(ready, "random+shift")
    found = identity(shift)
    assert found["method"] == "random + shift"
    assert found["corrector"] == "shift"
    assert found["corrector_options"] == {"what": "keys", "shrink": 8.0}
    assert found["corrector_code"] not in (None, found["method_code"])
    assert chosen(shift) == chosen(plain)
    (keys,) = folders(ready, "random+shift+what=both")
    (mean,) = folders(ready, "random+mean")
    kl = {f: [record["kl_mean"] for record in records(f)] for f in (plain, shift, keys, mean)}
    assert len(set(map(tuple, kl.values()))) == 4
    (reuse,), (same,) = folders(ready, "full"), folders(ready, "full+shift")
    figures = [[timeless(record) for record in records(folder)] for folder in (reuse, same)]
    assert figures[0] == figures[1]
    assert all(record["ttft_parts_ready_ms"]["correct"] > 0 for record in records(shift))
    own.write_text(CORRECTOR + "# edited\n", encoding="utf-8")
    ready.ok("eval", "REUSE=random", f"CORRECT={own}")
    assert len(folders(ready, "random+mean")) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_an_option_of_a_corrector_may_be_named_for_all(ready, stage):
    ready.ok(stage, *STAGES[stage], "REUSE=random", "CORRECT=shift", "WHAT=both")
    assert len(folders(ready, "random+shift+what=both")) == 1
    says = refused(ready, stage, "REUSE=random", "CORRECT=none", "WHAT=keys")
    assert "WHAT= is an option of none of REUSE='random' or CORRECT='none'" in says


@pytest.mark.parametrize("stage", STAGES)
def test_two_files_of_one_name_are_told(ready, own, tmp_path, stage):
    other = tmp_path / "elsewhere" / "mine.py"
    other.parent.mkdir()
    other.write_text(BACKWARDS, encoding="utf-8")
    line = refused(ready, stage, f"REUSE={own} {other}")
    assert f"REUSE={other}: another method mine is named too; rename a file" in line


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["debug", "random", "no", "a3"])
def test_a_file_called_like_a_method_is_told(ready, own, stage, name):
    """Its figures would stand in tables as that method's, or as the control's."""
    path = own.rename(own.with_stem(name))
    line = refused(ready, stage, f"REUSE={path}")
    assert f"REUSE={path}: there is a method {name} already; rename the file" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SELECTOR.replace("[:: self.step]", ""), None),
        (SELECTOR.replace("[: probe.budget]", ""), "the budget is"),
        (SELECTOR.replace("probe.candidates[", "probe.missing["), "failed with AttributeError"),
        (SELECTOR.replace("def select", "def choose"), "has no method select"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
def test_a_file_is_read_as_it_stands(ready, own, text, says):
    """What an earlier call of this process saw of it is not what is run."""
    ready.ok("eval", "LIMIT=1", f"REUSE={own}")
    own.write_text(text, encoding="utf-8")
    if says is None:
        ready.ok("eval", "LIMIT=1", f"REUSE={own}:step=3")
    else:
        line = line_of(ready.run("eval", "LIMIT=1", "RATE=.1", f"REUSE={own}:step=1"), "eval")
        assert says in line
        assert "mine" in line


# The report


def rows(out: str) -> list[str]:
    """The names of a table's rows."""
    lines = out[out.index("\nmethod") :].splitlines()[2:]
    names = lines[: lines.index("")]
    return [re.split(r"  +| [0-9.]+ ", line)[0] for line in names]


def test_methods_stand_in_one_table(ready, own):
    ready.ok("eval", f"REUSE=no random debug {own}")
    outcome = ready.ok("report")
    assert outcome.out.count("full prefill: ") == 1
    assert "score - random" in outcome.out
    assert rows(outcome.out) == ["debug", "full", "mine", "no", "random"]
    assert outcome.err == ""


def test_a_report_shows_the_later_source_of_a_method(ready, own):
    ready.ok("eval", f"REUSE=random {own}")
    (old,) = folders(ready, "mine")
    own.write_text(BACKWARDS, encoding="utf-8")
    ready.ok("eval", f"REUSE={own}")
    outcome = ready.ok("report")
    assert rows(outcome.out).count("mine") == 1
    (told,) = outcome.err.splitlines()
    assert told.startswith(f"report: {old} is left out")
    own.write_text(SELECTOR, encoding="utf-8")
    ready.ok("eval", f"REUSE={own}")  # now the first is the latest
    (told,) = ready.ok("report").err.splitlines()
    assert str(old) not in told


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"oracle": false}',
        lambda text: text.replace('"score": ', '"score": 1', 1),
        lambda text: text.replace('"digest"', '"other"'),
    ],
)
def test_a_damaged_result_is_named_and_left_out(ready, damage):
    ready.ok("eval", "REUSE=no debug")
    path = ready.runs()["debug"] / "result.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(damage(whole), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != whole
    outcome = ready.run("report")
    assert outcome.code == 2
    (told,) = outcome.err.splitlines()
    assert told.startswith(f"report: left out: {path} is damaged or of an earlier version (")
    assert "the same make eval writes it anew" in told
    assert rows(outcome.out) == ["full", "no"]
    ready.ok("eval", "REUSE=debug")
    outcome = ready.ok("report")
    assert outcome.err == ""
    assert rows(outcome.out) == ["debug", "full", "no"]


def test_no_result_that_is_whole_is_told(ready):
    (ready.runs()["full"] / "result.json").write_text("{", encoding="utf-8")
    outcome = ready.run("report")
    assert outcome.code == 2
    (damaged,) = outcome.err.splitlines()
    assert "result.json is damaged" in damaged
