"""Every command of the front door reaches its stage with the options that were named."""

from __future__ import annotations

import pytest

from kvfuse import __main__ as door

NAMED = {
    "doctor": ["KVS=elsewhere"],
    "bench": ["ROUNDS=2"],
    "gpu-check": ["DEVICE=cpu"],
    "gpu-build": ["ARCH=8.0"],
    "compare": ["A=one", "B=two"],
    "store": ["KVS=elsewhere"],
    "store gc": ["BYTES=3GB", "DRY=True"],
    "store rm": ["DATASET=2wikimqa"],
}


SINGLE = {(name,): command for name, command in door.COMMANDS.items() if not command.actions}
ACTIONS = {
    (name, action): found
    for name, command in door.COMMANDS.items()
    for action, found in command.actions.items()
}


@pytest.mark.parametrize("words", [*SINGLE, *ACTIONS], ids=" ".join)
def test_each_is_called_with_its_configuration(words, monkeypatch, tmp_path):
    command, called = {**SINGLE, **ACTIONS}[words], []
    found = door._found

    def instead(place):
        return called.append if place == command.main else found(place)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "_found", instead)
    arguments = NAMED.get(" ".join(words), NAMED.get(words[0], ["LIMIT=3"]))
    assert door.main([*words, *arguments]) == 0
    (config,) = called
    for word in arguments:
        option, _, value = word.partition("=")
        assert str(getattr(config, option.lower())) == value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "store: name what to do: choose from ls, stat"),
        (["KVS=kvs"], "store: name what to do"),
        (["verfy"], "store: 'verfy' is no action: did you mean verify?"),
        (["ls", "BYTES=3"], "store: unknown variable BYTES"),
        (["gc", "BYTES=much"], "store: BYTES=much: give bytes, as 500MB or 20GB"),
        (["gc", "BYTES=" + "9" * 400], f"store: BYTES={'9' * 400}: give bytes, as 500MB"),
        (["gc", "GRACE=-1"], "store: GRACE=-1: give minutes"),
        (["gc", "GRACE=inf"], "store: GRACE=inf: give minutes"),
        (["rm"], "store: name whose references go: DATASET="),
        (["ls", "MODEL=none"], "store: MODEL=none has no chunks in KVS=kvs; there are none at all"),
        (["ls", "KVS=none://x"], "store: none://x: Protocol not known: none; give a folder or"),
    ],
)
def test_an_action_that_cannot_be(arguments, says, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert door.main(["store", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(says)
    assert not list(tmp_path.iterdir())


def test_an_action_as_make_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKEFLAGS", " -- ACTION=stat KVS=none")
    assert door.main(["--make", "store"]) == 0
    assert capsys.readouterr().out == "store: no chunks in KVS=none\n"


def test_a_place_may_be_a_word_in_capitals(monkeypatch):
    called, found = [], door._found
    command = door.COMMANDS["compare"]
    monkeypatch.setattr(
        door, "_found", lambda place: called.append if place == command.main else found(place)
    )
    assert door.main(["compare", "RUNS", "B=two"]) == 0
    assert (called[0].a, called[0].b) == ("RUNS", "two")


def test_the_demo_has_a_manual(capsys):
    assert door.main(["demo", "--help"]) == 0
    assert capsys.readouterr().out.startswith("demo: a needle grid")


def test_actions_have_a_manual(capsys):
    for arguments, says in (
        (["store", "--help"], "  gc  "),
        (["store", "gc", "--help"], "  BYTES"),
    ):
        assert door.main(arguments) == 0
        assert f"\n{says}" in capsys.readouterr().out
