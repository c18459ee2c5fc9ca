"""Paths of users that cannot be looked up: one line, whichever variable names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.context import Context
from data.sources import haystack
from models import eviction, selectors
from models.errors import UserError
from models.load import source
from models.paths import user_path

LONG = "a" * 300
ASKED = {
    "MODEL=": source.check,
    "REUSE=": lambda text: selectors.build(f"{text}.py"),
    "DROP=": lambda text: eviction.build(f"{text}.py"),
    "CONTEXT=primed:8:": lambda text: Context.parse(f"primed:8:{text}"),
    "HAYSTACK=": haystack.load,
}


@pytest.mark.parametrize("named", ASKED)
@pytest.mark.parametrize(
    ("text", "why"),
    [("~nosuchuser/x", "Could not determine home directory"), (LONG, "File name too long")],
)
def test_a_path_that_cannot_be_looked_up_is_told_in_one_line(named, text, why):
    with pytest.raises(UserError) as caught:
        ASKED[named](text)
    line = str(caught.value)
    assert line.startswith(f"{named}{text[:13]}")
    assert line.endswith(f": {why}; name another path")
    assert "\n" not in line
    assert len(line) < 150


def test_the_cache_of_nobody(monkeypatch):
    monkeypatch.setenv("KVFUSE_CACHE", "~nosuchuser")
    with pytest.raises(UserError, match=r"^KVFUSE_CACHE=~nosuchuser: Could not"):
        source.cache_dir()


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="Symlink loop"):
        user_path(str(tmp_path / "a"), "MODEL=")


def test_any_other_path_is_as_it_was_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/gone", "MODEL=") == tmp_path / "gone"
    assert user_path("./here", "MODEL=") == Path("here")
