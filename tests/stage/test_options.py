"""Options: two spellings, one meaning; and no word that is silently dropped."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.errors import UserError
from stage.config import InputsConfig
from stage.options import (
    Option,
    command,
    note_environment,
    option,
    parse,
    read_arguments,
    words,
)


@dataclass
class Config:
    """A command of every kind of option."""

    rate: list[float] = option([0.15], "shares")
    limit: int | None = option(None, "items")
    seed: int = option(0, "a seed")
    alpha: float = option(0.5, "a weight")
    folder: str = option("inputs", "a folder")
    fresh: bool = option(False, "a switch")
    chat: bool | None = option(None, "a switch that may be left open")
    reuse: list[str] = option(["debug"], "methods")
    given: dict[str, str] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)


def test_what_is_not_named_has_its_default():
    config = parse(Config, [])
    assert config == Config()
    assert config.given == {}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["RATE=.5"], "rate", [0.5]),
        (["RATE=0 .15,1"], "rate", [0.0, 0.15, 1.0]),
        (["--rate", "0", ".15"], "rate", [0.0, 0.15]),
        (["--rate=0 .15"], "rate", [0.0, 0.15]),
        (["LIMIT=3"], "limit", 3),
        (["--limit", "3"], "limit", 3),
        (["--limit=3"], "limit", 3),
        (["FRESH=1"], "fresh", True),
        (["FRESH=no"], "fresh", False),
        (["--fresh"], "fresh", True),
        (["--fresh", "false"], "fresh", False),
        (["CHAT=0"], "chat", False),
        (["FOLDER=/a b/c$d'e\"f=g"], "folder", "/a b/c$d'e\"f=g"),
        (["--folder", "/a b"], "folder", "/a b"),
        (["REUSE=debug, blend:alpha=.5 random"], "reuse", ["debug", "blend:alpha=.5", "random"]),
        (["--reuse", "debug", "random"], "reuse", ["debug", "random"]),
        (['REUSE=random "attnlink:positions=/a b,c.json"'], "reuse",
         ["random", "attnlink:positions=/a b,c.json"]),
        (["--reuse", "attnlink:positions=/a b.json", "random"], "reuse",
         ["attnlink:positions=/a b.json", "random"]),
    ],
)  # fmt: skip
def test_both_spellings(arguments, name, value):
    config = parse(Config, arguments)
    assert getattr(config, name) == value
    assert set(config.given) == {name}


def test_a_switch_takes_no_following_option_for_its_value():
    config = parse(Config, ["--fresh", "--seed", "3"])
    assert (config.fresh, config.seed) == (True, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RATIO=.5"], "unknown variable RATIO: did you mean RATE?"),
        (["RATES=.5"], "did you mean RATE"),
        (["rate=.5"], "variables are upper case: RATE=.5"),
        (["Rate=.5"], "RATE=.5"),
        (["--ratio", ".5"], "unknown variable RATIO: did you mean RATE?"),
        (["--xyzzy=1"], "unknown variable XYZZY: see --help"),
        (["debug"], "'debug' is neither VARIABLE=value nor --option"),
        (["--seed"], "--seed has no value"),
        (["LIMIT="], "LIMIT= has no value; leave it out"),
        (["FOLDER= "], "FOLDER= has no value"),
        (["LIMIT=many"], "LIMIT='many': give a whole number"),
        (["LIMIT=1.5"], "a whole number"),
        (["LIMIT=99999999999999999999"], "whole numbers go up to 10^18"),
        (["ALPHA=half"], "ALPHA='half': give a number"),
        (["RATE=.1 x"], "give a number, or several"),
        (["FRESH=perhaps"], "FRESH='perhaps': give 1 or 0"),
        (["REUSE=random 'debug"], "close the quote"),
        (["SEED=1", "--seed", "2"], "SEED is named twice"),
    ],
)
def test_mistakes_are_one_line(arguments, says, capsys):
    assert command("eval", Config, lambda config: None, arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("eval: ")
    assert says in err


def test_options_that_only_methods_know():
    known = [Option("lego_k", int | None, "tokens of each chunk")]
    config = parse(Config, ["LEGO_K=8", "SEED=1"], more=lambda _: known)
    assert config.method_options == {"lego_k": 8}
    with pytest.raises(UserError, match="unknown variable LEGO: did you mean LEGO_K"):
        parse(Config, ["LEGO=8"], more=lambda _: known)
    with pytest.raises(UserError, match="LEGO_K='x': give a whole number"):
        parse(Config, ["LEGO_K=x"], more=lambda _: known)


def test_defaults_of_a_call_give_way_to_what_is_named():
    assert parse(Config, [], folder="a").folder == "a"
    config = parse(Config, ["FOLDER=b"], folder="a")
    assert config.folder == "b"
    assert parse(Config, [], folder="a").given == {}


@pytest.mark.parametrize("entries", [["a"], ["a b", "e'f", 'g"h', "", "i\\j"], ["#x", "y"]])
def test_words_undo_quoting(entries):
    assert words(" ".join(map(shlex.quote, entries)), "REUSE") == entries


def test_arguments_keep_names_that_are_not_known():
    assert read_arguments(["--check-layer", "2", "POOL=3"], {}) == {"check_layer": "2", "pool": "3"}


def test_the_environment_is_told_of_and_not_taken(monkeypatch, capsys):
    monkeypatch.setenv("LIMIT", "2")
    monkeypatch.delenv("SEED", raising=False)
    assert parse(Config, []).limit is None
    note_environment(["limit", "seed"], "name it after the target")
    assert capsys.readouterr().err == (
        "note: LIMIT in the environment is not taken; name it after the target\n"
    )


def test_help_lists_every_option(capsys):
    assert command("eval", Config, lambda config: None, ["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("RATE", "LIMIT", "FRESH", "a switch that may be left open"))


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "what is finished is kept"),
        (MemoryError(), 2, "out of memory"),
        (UserError("no"), 2, "chunk: no"),
    ],
)
def test_how_a_command_ends(raised, code, says, capsys):
    def fail(config):
        raise raised

    assert command("chunk", Config, fail, []) == code
    assert says in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    def fail(config):
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        command("chunk", Config, fail, [])


def test_a_remedy_repeats_what_was_named():
    arguments = ["MODEL=smollm2-135m", "CHUNK_SIZE=32", "INPUTS=/a b/$x", "LENGTHS=300 400"]
    config = parse(InputsConfig, [*arguments, "DATASET=needle,hotpotqa_distractor"])
    remedy = config.command("chunk", dataset="needle")
    assert remedy.startswith("make chunk MODEL=smollm2-135m DATASET=needle ")
    assert sorted(shlex.split(remedy)[4:]) == sorted(arguments[1:])
    assert "LENGTHS" not in config.command("chunk", lengths=None)
