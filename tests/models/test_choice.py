"""What the engine makes of selectors that return something they may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from models.errors import UserError
from models.probe import Probe
from models.selectors import BaseSelector
from tests.models.selector_references import fuse, shaped

# Documents are 5 to 59, the question 60 to 68; at 0.2 the budget is 11.
RATE = 0.2


@dataclass
class Anything(BaseSelector):
    """Returns what it is given, or what a function makes of the probe."""

    returned: Any
    adds_question: bool = True
    rated: bool = True

    @property
    def knows_rate(self) -> bool:
        return self.rated

    def select(self, probe: Probe) -> Any:
        return self.returned(probe) if isinstance(self.returned, Callable) else self.returned


def positions(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        (Anything(list(range(5, 16))), "returned a list, not a tensor"),
        (Anything(None), "returned a NoneType, not a tensor"),
        (
            Anything(positions(5, 6).float()),
            r"returned torch.float32 \[2\]: positions are integers",
        ),
        (Anything(torch.tensor([True, False])), r"returned torch.bool \[2\]"),
        (Anything(positions(5, 6)[None]), r"returned torch.int64 \[1, 2\]"),
        (Anything(torch.tensor(5)), r"returned torch.int64 \[\]"),
        (Anything(positions(5, 9, 5)), "chose position 5 more than once"),
        (Anything(positions(-1)), "chose position -1, outside the documents' 5 to 59"),
        (Anything(positions(4, 5)), "chose position 4, outside the documents' 5 to 59"),
        (Anything(positions(5, 60)), "chose position 60, outside the documents'"),
        (Anything(positions(9, 10**9)), "chose position 1000000000, outside"),
        (Anything(torch.arange(5, 17)), "chose 12 document positions, and the budget is 11"),
        (Anything(lambda p: p.candidates), "chose 55 document positions, and the budget is 11"),
        (Anything(positions(7), adds_question=False), "left out the last position, 68"),
        (Anything(positions(), adds_question=False), "left out the last position, 68"),
        (
            Anything(positions(68, 69), adds_question=False),
            "chose position 69, outside the prompt's 0 to 68",
        ),
        (
            Anything(positions(-1, 68), adds_question=False),
            "chose position -1, outside the prompt's",
        ),
        (
            Anything(torch.tensor([*range(5, 17), 68]), adds_question=False),
            "chose 12 document positions",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_choice_that_is_none(llama, selector, why):
    with pytest.raises(UserError, match=f"^selector test_choice {why}") as caught:
        fuse(llama, shaped("usual"), selector, RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", ["check", "question"])
@pytest.mark.parametrize("left", [[68], list(range(61, 69))])
def test_whoever_looks_at_a_layer_recomputes_the_question(llama, layer, left):
    """What it ran overwrote the KVs of the question's rows."""

    def look(probe):
        getattr(probe, layer)(1)
        return positions(*left)

    with pytest.raises(UserError, match="looked at a layer, so that it must choose every question"):
        fuse(llama, shaped("usual"), Anything(look, adds_question=False), RATE)
    whole = Anything(
        lambda probe: torch.cat([look(probe)[:0], torch.arange(60, 69)]), adds_question=False
    )
    assert fuse(llama, shaped("usual"), whole, RATE).recomputed.tolist() == [*range(60, 69)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_what_may_be_chosen(llama, dtype):
    """Any order, any kind of integers, up to the budget; beyond it without a rate."""
    prompt, question = shaped("usual"), list(range(60, 69))
    for count, rated in ((0, True), (11, True), (12, False), (55, False)):
        found = torch.arange(5, 5 + count).flip(0).to(dtype)
        recomputed = fuse(llama, prompt, Anything(found, rated=rated), RATE).recomputed
        assert recomputed.tolist() == [*sorted(found.tolist()), *question]
        assert recomputed.dtype == torch.int64
    for alone in ([68], [0, 4, 5, 61, 68], [*range(5, 16), 68]):
        found = Anything(torch.tensor(alone).flip(0).to(dtype), adds_question=False)
        assert fuse(llama, prompt, found, RATE).recomputed.tolist() == alone


def test_an_exception_of_its_own_is_one_line_with_its_cause(llama):
    def fails(probe):
        return {}["no such\nkey"]

    selector = Anything(fails)
    with pytest.raises(UserError) as caught:
        fuse(llama, shaped("usual"), selector, RATE)
    line = str(caught.value)
    assert line.startswith("selector test_choice failed with KeyError: 'no such\\nkey' (")
    assert "test_choice.py, line " in line
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_message_of_many_lines_becomes_one(llama):
    def fails(probe):
        raise ValueError("first\n  second\n" + "x" * 5000)

    with pytest.raises(UserError, match="ValueError: first second xxx") as caught:
        fuse(llama, shaped("usual"), Anything(fails), RATE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("full")])
def test_no_memory_left_is_not_the_selectors_fault(llama, error):
    def fails(probe):
        raise error

    with pytest.raises(type(error)):
        fuse(llama, shaped("usual"), Anything(fails), RATE)


def test_the_next_prefill_is_right_after_a_bad_choice(llama):
    prompt = shaped("usual")
    wanted = fuse(llama, prompt, "random", RATE).logits
    for bad in (positions(5, 5), "nothing"):
        with pytest.raises(UserError):
            fuse(llama, prompt, Anything(bad), RATE)
    assert torch.equal(fuse(llama, prompt, "random", RATE).logits, wanted)
