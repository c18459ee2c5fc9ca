"""Positions given by a file, and files that cannot give them."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch

from models import selectors
from models.errors import UserError
from models.kv.capture import capture
from models.modules import Modules
from models.prompt import Headers
from models.selectors import attnlink
from tests.conftest import build, random_prompt
from tests.models.selector_references import bare_probe, fuse, shaped


def told_by(folder, content: str | bytes):
    path = folder / "positions.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return selectors.make("attnlink", positions=str(path))


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_positions_of_a_file(llama, tmp_path, rate):
    prompt = shaped("usual")
    last = len(prompt) - 1
    for positions, wanted in (
        ([], [last]),
        ([40, 7, 7, last - 1], [7, 40, last - 1, last]),
        ([0, last], [0, last]),
        (list(range(len(prompt))), list(range(len(prompt)))),
    ):
        selector = told_by(tmp_path, json.dumps({"7": positions, "8": [1]}))
        assert not selector.knows_rate
        assert selector.needs == ()
        selector.check_item("7", prompt)
        assert fuse(llama, prompt, selector, rate).recomputed.tolist() == wanted


def test_all_positions_of_a_file_are_a_full_prefill(family, tmp_path):
    prompt = shaped("usual")
    selector = told_by(tmp_path, json.dumps({"7": list(range(len(prompt)))}))
    logits = fuse(family, prompt, selector, 0.0).logits
    assert torch.allclose(logits, family.logits(prompt.ids)[-1], atol=1e-4)


def test_the_identity_is_the_files_content(tmp_path):
    one, same, other = (
        told_by(tmp_path, text) for text in ('{"7": [1]}', '{"7": [1]}', '{"7": [2]}')
    )
    assert one.identity() == same.identity() != other.identity()
    assert selectors.make("attnlink").identity() == {"positions": None, "chance": "length"}
    assert selectors.build(selectors.spec_of(other)).identity() == other.identity()


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "[[1, 2]]", "5", "null", '{"7": 5}', '{"7": null}', '{"7": "12"}'),
        *('{"7": ""}', '{"7": {}}', '{"7": {"1": 2}}', '{"7": [1.0]}', '{"7": ["1"]}'),
        *('{"7": [true]}', '{"7": [[1]]}', b"\xff\xfe{}", b"\x00"),
    ],
)
def test_a_file_of_something_else(tmp_path, content):
    with pytest.raises(UserError, match=r"POSITIONS=.*json must be JSON of the form") as caught:
        told_by(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, why in (
        (tmp_path / "none.json", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "locked.json", "Permission denied"),
    ):
        if path.name == "locked.json":
            path.write_text("{}")
            path.chmod(0)
            if os.access(path, os.R_OK):
                continue  # root may read anything
        with pytest.raises(UserError, match=f"POSITIONS={re.escape(str(path))} cannot be .*{why}"):
            selectors.make("attnlink", positions=str(path))


def test_an_item_or_position_that_does_not_fit(tmp_path):
    prompt = shaped("usual")
    n = len(prompt)
    selector = told_by(tmp_path, json.dumps({"7": [3, n], "8": [-1], "9": [0, n - 1]}))
    for item, what in (
        ("7", f"position {n} of item 7 is outside its {n} tokens; was .* another chunking"),
        ("8", "position -1 of item 8 is outside"),
        ("10", "has no item 10; add it, or leave POSITIONS= out"),
    ):
        with pytest.raises(UserError, match=f"^POSITIONS=.*json.*{what}"):
            selector.check_item(item, prompt)
    selector.check_item("9", prompt)
    with pytest.raises(UserError, match="position 69 of item 7"):
        selector.select(bare_probe(random_prompt(4, [40, 20], 4), 0.2))


def test_sinks_serve_any_item():
    selectors.make("attnlink").check_item("nobody", shaped("usual"))


# What a token draws by chance


def by_chance(prompt, kind: str, headers: tuple[int, int]) -> list[float]:
    """Row by row: a token attends evenly to itself and to all before it in its segment."""
    shares = []
    for start, end in prompt.chunks:
        front = (headers[0] if start == prompt.documents[0] else headers[1]) if start > 0 else 0
        n = front + end - start
        drawn = [0.0] * n
        for row in range(n):
            for key in range(row + 1):
                drawn[key] += 1 / (row + 1) / n
        length = end - start
        shares += drawn[front:] if kind == "place" else [1 / n for _ in range(length)]
    return shares


@pytest.mark.parametrize("kind", ["length", "place"])
@pytest.mark.parametrize("headers", [(0, 0), (1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize(
    "shape", [(5, [30, 1, 24], 9), (0, [20, 7], 5), (2, [4, 0, 3], 1), (3, [], 2)]
)
def test_chance_is_what_even_attention_gives(kind, headers, shape):
    prompt = random_prompt(*shape)
    found = attnlink.by_chance(prompt, kind, Headers(headers)).tolist()
    assert found == pytest.approx(by_chance(prompt, kind, headers))


def test_a_model_without_preference_draws_by_chance(prompt):
    """Captured from a model whose queries are zero, every token's share is its place's."""
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.zero_()
    for sink in ([], [1], [1, 2]):
        found = capture(Modules(model), prompt, sink, ["sinks"]).scores["sinks"]
        drawn = found[slice(*prompt.documents)].double()
        shares = attnlink.by_chance(prompt, "place", Headers((len(sink),)))
        assert torch.allclose(drawn / shares, torch.ones(len(drawn)).double(), atol=1e-4)


@pytest.mark.parametrize(
    ("chance", "wanted"),
    [
        ("none", [3, 4, 5, 6]),  # shares of the short chunk are the largest whatever it holds
        ("length", [7, 8, 9, 10]),  # relative to its length it draws as much as its mean
        ("place", [6, 9, 10, 16]),
    ],
)
def test_what_chance_changes(chance, wanted):
    prompt = random_prompt(3, [4, 10], 3)
    even = by_chance(prompt, "place", (1, 1))
    drawn = [0.25, 0.25, 0.25, 0.25, *([0.13] * 4), *([0.08] * 6)]
    if chance == "place":
        drawn = [3 * e if i in (3, 6, 7, 13) else e for i, e in enumerate(even)]
    scores = torch.tensor([0.0] * 3 + drawn + [0.0] * 3)
    probe = bare_probe(prompt, 0.3, scores, headers=Headers((1,)))
    found = selectors.build(f"attnlink:chance={chance}").select(probe)
    assert sorted(p for p in found.tolist() if p < 17) == wanted


def test_a_chance_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match=r"REUSE=attnlink:chance=luck: CHANCE is none, length, pl"):
        selectors.build("attnlink:chance=luck")
    path = tmp_path / "positions.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="CHANCE=place is for sinks, and POSITIONS= names others"):
        selectors.build(f"attnlink:positions={path}:chance=place")
