"""A sealed object tells every change."""

from __future__ import annotations

import json

import pytest

from models.sealed import digest, seal, unseal

CONTENT = {"score": 12.5, "n": 20, "names": ["a", "ä"], "inner": {"x": None, "y": True}}


def test_what_was_sealed_comes_back_through_json():
    assert unseal(json.loads(json.dumps(seal(CONTENT)))) == CONTENT


def test_the_order_of_keys_does_not_count():
    assert digest(CONTENT) == digest(dict(reversed(CONTENT.items())))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(score=12.6),
        lambda c: c.update(n="20"),
        lambda c: c.pop("names"),
        lambda c: c["inner"].update(y=1.5),
        lambda c: c.update(more=1),
        lambda c: c.pop("digest"),
        lambda c: c.update(digest="0" * 16),
        lambda c: c.update(digest=None),
    ],
)
def test_every_change_is_seen(change):
    sealed = json.loads(json.dumps(seal(CONTENT)))
    change(sealed)
    with pytest.raises(ValueError, match="changed since"):
        unseal(sealed)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="no JSON object"):
        unseal(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_know_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        seal({"x": value})
