"""Methods that cannot run: a wrong option, a missing score, a bad file of positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval.evaluator import Evaluator
from tests.stages.harness import Workplace, line_of, records, refused

STAGES = ["eval", "sweep"]


def command(place: Workplace, kept: str) -> str:
    """What a user has to run for scores that are missing."""
    return (
        f"make precompute MODEL={place.model} DATASET=2wikimqa KVS={place.root / 'kvs'} "
        f"INPUTS={place.root / 'inputs'} {kept}=1"
    )


def chosen(place: Workplace, **changes: object) -> Path:
    """A file of positions for ``attnlink``: two of every item, and what ``changes`` say."""
    path = place.root / "positions.json"
    by_item: dict[str, object] = {name: [40, 41] for name in place.ids()}
    path.write_text(json.dumps(by_item | changes))
    return path


# Options


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("debug:chek=cached", ["no option 'chek'", "check_layer, check, per_head"]),
        ("debug:", ["no option ''", "check_layer"]),
        ("debug:check=maybe", ["dense or cached", "'maybe'"]),
        ("a3:check", ["dense or cached"]),
        ("debug:check_layer=x", ["check_layer takes int", "'x'"]),
        ("debug:check_layer=-1", ["check_layer must be at least 0"]),
        ("debug:per_head=perhaps", ["per_head takes bool", "'perhaps'"]),
        ("blend:filter_layers=0", ["at least 1"]),
        ("blend:blend_gap_source=q", ["k or v", "'q'"]),
        ("prophet:pool=2", ["must be odd", "1 (off), 3"]),
        ("blend_debug:fusion=avg", ["mul, sum or rank", "'avg'"]),
        ("blend_debug:normalize=z", ["minmax or rank", "'z'"]),
        ("blend_debug:alpha=2", ["outside [0, 1]"]),
        ("blend_debug:alpha=nan", ["outside [0, 1]"]),
        ("epic:lego_k=-1", ["at least 0"]),
        ("attnlink:positions=/nowhere/p.json", ["/nowhere/p.json", "No such file"]),
        ("full:rate=1", ["full has no option 'rate'", "it has none"]),
        ("no:x=1", ["the full prefill", "no options"]),
    ],
)
def test_a_spec_that_cannot_be(ready, stage, spec, says):
    line = refused(ready, stage, "--reuse", "random", spec)
    assert f"REUSE={spec}" in line
    assert all(word in line for word in says), line


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("method", "option", "value", "says"),
    [
        ("debug", "--check", "maybe", "CHECK is dense or cached, not 'maybe'"),
        ("debug", "--check-layer", "-1", "CHECK_LAYER=-1 must be at least 0"),
        ("debug", "--check-layer", "x", "check-layer"),
        ("blend", "--filter-layers", "0", "FILTER_LAYERS=0 must be at least 1"),
        ("prophet", "--pool", "2", "POOL=2 must be odd"),
        ("prophet", "--pool", "0", "POOL=0 must be odd"),
        ("blend_debug", "--fusion", "avg", "FUSION is mul, sum or rank, not 'avg'"),
        ("blend_debug", "--normalize", "z", "NORMALIZE is minmax or rank, not 'z'"),
        ("blend_debug", "--alpha", "2", "ALPHA=2.0 is outside [0, 1]"),
        ("full", "--pool", "3", "POOL= is an option of none of REUSE="),
        ("epic", "--lego-k", "-1", "LEGO_K=-1 must be at least 0"),
        ("attnlink", "--positions", "/nowhere/p.json", "POSITIONS=/nowhere/p.json cannot be read"),
    ],
)
def test_an_option_for_all_methods_that_cannot_be(ready, stage, method, option, value, says):
    assert says in refused(ready, stage, "--reuse", method, option, value)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--reuse", "debug:check_layer=4"), "REUSE=debug:check_layer=4 asks for CHECK_LAYER=4"),
        (("--reuse", "blend:check_layer=2:filter_layers=3"), "CHECK_LAYER=2 and FILTER_LAYERS=3"),
        (("--reuse", "random", "blend_debug", "--check-layer", "9"), "CHECK_LAYER=9"),
        (("--reuse", "blend", "--filter-layers", "4"), "CHECK_LAYER=1 and FILTER_LAYERS=4"),
    ],
)
def test_layers_that_the_model_lacks(ready, stage, options, says):
    line = refused(ready, stage, *options)
    assert says in line
    assert "the model has layers 0 to 3" in line


def test_the_last_layers_may_be_asked_for(ready):
    specs = ("debug:check_layer=3", "blend:filter_layers=3", "blend_debug:check_layer=0")
    ready.ok("eval", "--limit", "1", "--reuse", *specs)


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        (["0.1", "1.5"], "RATE=1.5 is outside [0, 1]"),
        (["-0.1", "0.5"], "RATE=-0.1 is outside [0, 1]"),
        (["nan"], "RATE=nan is outside [0, 1]"),
        (["0.1", "half"], "'half'"),
        ([], "--rate"),
    ],
)
def test_a_sweep_of_rates_that_cannot_be(ready, rates, says):
    assert says in refused(ready, "sweep", "--reuse", "random", "--rate", *rates)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--reuse", "debug:chek=cached"), "no option 'chek'"),
        (("--reuse", "debug:check_layer=-1"), "at least 0"),
        (("--reuse", "prophet", "--pool", "2"), "POOL=2"),
        (("--reuse", "blendd"), "did you mean"),
        (("--reuse", "attnlink", "--positions", "/nowhere/p.json"), "/nowhere/p.json"),
        (("--rate", "2"), "RATE=2"),
        (("--seed", "-1"), "SEED=-1"),
        (("--max-new-tokens", "0"), "MAX_NEW_TOKENS=0"),
    ],
)
def test_check_options_refuses_before_anything_is_loaded(place, stage, options, says):
    """The model does not exist, which nobody has found out when the line is told."""
    argv = ("--model", "./nowhere", "--check-options", "true", *options)
    assert says in refused(place, stage, *argv)


@pytest.mark.parametrize("stage", STAGES)
def test_check_options_says_nothing_of_good_ones(place, stage):
    argv = ("--model", "./nowhere", "--check-options", "true", "--reuse", "no", "a3:check=cached")
    outcome = place.ok(stage, *argv)
    assert (outcome.out, outcome.err) == ("", "")
    assert not list(place.root.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "method", "name"),
    [
        ("--check-layer", 0, "debug", "check_layer"),
        ("--lego-k", 0, "epic", "lego_k"),
        ("--alpha", 0, "blend_debug", "alpha"),
    ],
)
def test_zero_is_a_value(ready, option, value, method, name):
    ready.ok("eval", "--limit", "1", "--reuse", method, option, value)
    (found,) = (p for key, p in ready.runs().items() if key.startswith(f"{method}+"))
    config = json.loads((found / "config.json").read_text())["config"]
    assert config["options"][name] == 0


# Scores


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("method", "kept"), [("surprisal_chunk", "SURPRISAL"), ("attnlink", "SINKS")]
)
def test_scores_that_were_not_kept(ready, stage, method, kept):
    line = refused(ready, stage, "--limit", "1", "--reuse", "random", method)
    assert f"item_row-0/{kept.lower()}.pt is missing" in line
    assert line.endswith(command(ready, kept))
    ready.ok("precompute", f"--{kept.lower()}", "true")
    ready.ok(stage, "--limit", "1", "--rate", "0.1", "--reuse", method)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def short(path: Path) -> None:
    content = torch.load(path)
    torch.save(content | {"scores": content["scores"][:-1]}, path)


def without_scores(path: Path) -> None:
    content = torch.load(path)
    del content["scores"]
    torch.save(content, path)


@pytest.mark.parametrize("damage", [damaged, short, without_scores])
@pytest.mark.parametrize(
    ("method", "kept"), [("surprisal_chunk", "SURPRISAL"), ("attnlink", "SINKS")]
)
def test_damaged_scores_are_refused_and_rebuilt(with_scores, damage, method, kept):
    path = with_scores.kvs / "item_row-2" / f"{kept.lower()}.pt"
    whole = path.read_bytes()
    damage(path)
    line = refused(with_scores, "sweep", "--reuse", method)
    assert f"{path} is damaged" in line
    assert line.endswith(command(with_scores, kept))
    assert "1 of 5" in with_scores.ok("precompute", f"--{kept.lower()}", "true").out
    assert path.read_bytes() == whole


@pytest.mark.parametrize("stage", STAGES)
def test_scores_of_another_chunking(with_scores, stage):
    """The KVs were made anew without them, so what lies beside is of the chunks before."""
    with_scores.ok("chunk", "--chunk_size", "31")
    with_scores.ok("precompute")
    line = refused(with_scores, stage, "--reuse", "surprisal_chunk")
    assert "surprisal.pt does not fit this run: chunking.chunk_size is 24" in line
    assert line.endswith(command(with_scores, "SURPRISAL"))
    with_scores.ok(stage, "--limit", "1", "--rate", "0.1", "--reuse", "random")


# Positions


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"row-0": 5}', '{"row-0": ["a"]}', "ÿ"])
def test_positions_that_are_no_positions(ready, stage, content):
    path = ready.root / "positions.json"
    path.write_bytes(content.encode("latin-1"))
    line = refused(ready, stage, "--reuse", "attnlink", "--positions", path)
    assert f"POSITIONS={path} must be JSON of the form {{item id: [positions]}}" in line


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("position", [-1, 100_000])
def test_positions_outside_the_prompt(ready, stage, position):
    path = chosen(ready, **{"row-3": [40, position]})
    line = refused(ready, stage, "--reuse", "attnlink", "--positions", path)
    assert f"position {position} of item row-3 is outside its" in line
    assert str(path) in line


@pytest.mark.parametrize("stage", STAGES)
def test_positions_that_lack_an_item(ready, stage):
    path = chosen(ready)
    by_item = json.loads(path.read_text())
    del by_item["row-4"]
    path.write_text(json.dumps(by_item))
    line = refused(ready, stage, "--reuse", f"attnlink:positions={path}")
    assert f"POSITIONS={path} has no item row-4" in line


def test_positions_of_a_file_are_recomputed_and_name_the_run(ready, tmp_path):
    folder = tmp_path / ("deep" * 30) / ("deeper" * 30)
    folder.mkdir(parents=True)
    path = chosen(ready).rename(folder / "positions.json")
    ready.ok("eval", "--reuse", "attnlink", "--positions", path)
    (found,) = (p for key, p in ready.runs().items() if key.startswith("attnlink"))
    assert [record["recomputed"] for record in records(found)] == [3] * 5  # and the last token
    options = json.loads((found / "config.json").read_text())["config"]["options"]
    assert options.keys() == {"positions"}
    path.write_text(json.dumps({name: [40, 42] for name in ready.ids()}))
    ready.ok("eval", "--reuse", "attnlink", "--positions", path)
    assert len(list(found.parent.glob("attnlink*"))) == 2


def test_scores_that_vanish_while_a_sweep_runs(with_scores, monkeypatch):
    victim = with_scores.kvs / "item_row-1" / "sinks.pt"
    original = Evaluator.record

    def record(self, item, variant, reference):
        victim.unlink(missing_ok=True)
        return original(self, item, variant, reference)

    monkeypatch.setattr(Evaluator, "record", record)
    line = line_of(with_scores.run("sweep", "--reuse", "attnlink", "--rate", "0.1"), "sweep")
    assert f"{victim} is missing" in line
    assert line.endswith(command(with_scores, "SINKS"))
