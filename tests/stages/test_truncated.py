"""What is counted as truncated: a row whose context lost tokens, however long its prompt."""

from __future__ import annotations

import json

import pytest

from data.inputs import meta_path


@pytest.mark.parametrize(("shorter", "truncated"), [(0, 0), (1, 1)])
def test_a_prompt_that_just_fits_is_not_truncated(place, shorter, truncated):
    place.ok("chunk")
    lines = [json.loads(line) for line in place.inputs.read_text().splitlines()]
    sizes = sorted(
        len(tokens["prefix"]) + sum(map(len, tokens["chunks"])) + len(tokens["question"])
        for tokens in (line["tokens"] for line in lines)
    )
    assert sizes[-2] < sizes[-1]
    outcome = place.ok("chunk", "--max-length", sizes[-1] - shorter)
    assert json.loads(meta_path(place.inputs).read_text())["truncated"] == truncated
    assert f"{sizes[-1] - shorter} at most, {truncated} truncated" in outcome.out
