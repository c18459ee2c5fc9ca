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
}


@pytest.mark.parametrize("name", door.COMMANDS)
def test_each_is_called_with_its_configuration(name, monkeypatch, tmp_path):
    command, called = door.COMMANDS[name], []
    found = door._found

    def instead(place):
        return called.append if place == command.main else found(place)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "_found", instead)
    arguments = NAMED.get(name, ["LIMIT=3"])
    assert door.main([name, *arguments]) == 0
    (config,) = called
    for word in arguments:
        option, _, value = word.partition("=")
        assert str(getattr(config, option.lower())) == value
