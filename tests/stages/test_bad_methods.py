"""Methods that cannot run: a wrong option, a layer too deep, a bad file of positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stages.harness import Workplace, records, refused

STAGES = ["eval", "sweep"]


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
        ("debug:check_layer=-1", ["CHECK_LAYER=-1 must be at least 0"]),
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
    ("spec", "says"),
    [
        ("shfit", ["unknown corrector", "did you mean shift?"]),
        ("shift:what=all", ["WHAT is keys, values, both, not 'all'"]),
        ("shift:shrink=inf", ["SHRINK=inf must be a number, at least 0"]),
        ("shift:shrink=few", ["shrink takes float, not 'few'"]),
        ("shift:rate=1", ["shift has no option 'rate'", "what, shrink"]),
        ("none:what=keys", ["none corrects nothing, has no options"]),
        ("./nowhere.py", ["no such file; name a file that holds a corrector"]),
    ],
)
def test_a_corrector_that_cannot_be(ready, stage, spec, says):
    line = refused(ready, stage, "REUSE=random", f"CORRECT=none {spec}")
    assert "CORRECT=" in line
    assert all(word in line for word in says), line


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("method", "option", "value", "says"),
    [
        ("debug", "--check", "maybe", "CHECK is dense or cached, not 'maybe'"),
        ("debug", "--check-layer", "-1", "CHECK_LAYER=-1 must be at least 0"),
        ("debug", "--check-layer", "x", "CHECK_LAYER='x': give a whole number"),
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
        (("--reuse", "debug:check_layer=4"), "REUSE=debug:check_layer=4 looks at layer 4"),
        (
            ("--reuse", "blend:check_layer=2:filter_layers=3"),
            "REUSE=blend:check_layer=2:filter_layers=3 looks at layer 4",
        ),
        (
            ("--reuse", "random", "blend_debug", "--check-layer", "9"),
            "REUSE=blend_debug:check_layer=9 looks at layer 9",
        ),
        (
            ("--reuse", "blend", "--filter-layers", "4"),
            "REUSE=blend:filter_layers=4 looks at layer 4",
        ),
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
        (["0.1", "half"], "RATE='0.1 half': give a number, or several"),
        ([], "--rate has no value"),
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
def test_options_are_refused_before_anything_is_loaded(place, stage, options, says):
    """The model cannot be loaded, which nobody has found out when the line is told."""
    place.model = place.root / "empty"
    place.model.mkdir()
    (place.model / "config.json").write_text("{}")
    assert says in refused(place, stage, *options)
    assert "cannot be loaded" in refused(place, stage)


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
