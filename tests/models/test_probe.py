"""What a selector may ask for, and what it is told when it asks wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from models.errors import UserError
from models.probe import Probe
from models.selectors import BaseSelector
from tests.models.library_states import RowByRow, cached, in_context
from tests.models.selector_references import fuse, shaped


@dataclass
class Asks(BaseSelector):
    """Does something with the probe and chooses its first documents."""

    what: Callable[[Probe], None]
    count: int = 2

    def select(self, probe):
        self.what(probe)
        return probe.candidates[: min(self.count, probe.budget)]


def ask(family, prompt, what, rate=0.2):
    return fuse(family, prompt, Asks(what), rate)


def test_a_check_layer_holds_fresh_states_beside_cached_ones(family):
    prompt = shaped("usual", seed=41)
    first, last = prompt.documents
    true, old = in_context(family, prompt), cached(family, prompt)

    def look(probe):
        for layer in (0, 1, 3):
            check = probe.check(layer)
            assert check.positions.tolist() == list(range(first, len(prompt)))
            assert check.documents.tolist() == list(range(first, last))
            pairs = [
                (check.queries, true[layer]["q"][:, last:]),
                (check.keys, true[layer]["k"][:, first:]),
                (check.values, true[layer]["v"][:, first:]),
                (check.cached(0), old[layer]["k"][:, first:]),
                (check.cached(1), old[layer]["v"][:, first:]),
                (probe.cached(0, layer), old[layer]["k"][:, first:last]),
                (probe.cached(1, layer), old[layer]["v"][:, first:last]),
            ]
            for ours, theirs in pairs:
                assert torch.allclose(ours.double(), theirs, atol=1e-4)

    ask(family, prompt, look)


def test_rows_that_were_kept_go_on_over_cached_ones(family):
    prompt = shaped("usual", seed=42)
    first, last = prompt.documents
    question = list(range(last, len(prompt)))
    walk = RowByRow(family, prompt)
    walk.run(0, list(range(first, len(prompt))))
    walk.run(1, [first, 11, 36, *question])
    fresh = walk.fresh(2, [first, 11, 36, *question])

    def look(probe):
        probe.check(1)
        probe.keep(torch.tensor([first, 11, 36]))
        check = probe.check(2)
        assert check.documents.tolist() == [first, 11, 36]
        for ours, name in ((check.keys, "k"), (check.values, "v")):
            wanted = fresh[name][:, [first, 11, 36, *question]]
            assert torch.allclose(ours.double(), wanted, atol=1e-4)
        old = cached(family, prompt)[2]["v"][:, [first, 11, 36, *question]]
        assert torch.allclose(check.cached(1).double(), old, atol=1e-4)
        probe.keep(torch.tensor([first]))  # of what was kept, fewer may be kept

    fuse(family, prompt, Asks(look, count=1), 0.2)


@pytest.mark.parametrize("kept", [[7, 11, 36], [36, 11], [11, 11], [4, 11], [11, 60]], ids=str)
def test_rows_that_are_not_in_flight_cannot_be_kept(llama, kept):
    """Looked up among those that are, they would be other rows under the wrong positions."""

    def look(probe):
        probe.check(1)
        probe.keep(torch.tensor([5, 11, 36, 40]))
        probe.keep(torch.tensor(kept))

    with pytest.raises(UserError, match="must be among those that ran below this layer, in order"):
        ask(llama, shaped("usual"), look)


@pytest.mark.parametrize("chosen", [[6], [5, 6], [5, 7]])
def test_what_is_chosen_must_have_run_below_the_check_layer(llama, chosen):
    @dataclass
    class Narrowed(BaseSelector):
        def select(self, probe):
            probe.check(1)
            probe.keep(torch.tensor([5, 9]))
            return torch.tensor(chosen)

    with pytest.raises(UserError, match="must be among those that ran"):
        fuse(llama, shaped("usual"), Narrowed(), 0.2)


@pytest.mark.parametrize("kind", ["check", "question"])
def test_layers_are_asked_for_upwards(llama, kind):
    prompt = shaped("usual")

    def again_and_up(probe):
        for layer in (0, 1, 1, 3):
            getattr(probe, kind)(layer)

    def down(probe):
        getattr(probe, kind)(2)
        getattr(probe, kind)(1)

    ask(llama, prompt, again_and_up)
    with pytest.raises(UserError, match="layer 1 was asked for after layer 2: ask upwards"):
        ask(llama, prompt, down)
    for layer in (-1, 4, 99):
        with pytest.raises(UserError, match=f"layer {layer} does not exist: .* 0 to 3"):
            ask(llama, prompt, lambda probe, layer=layer: getattr(probe, kind)(layer))


@pytest.mark.parametrize("rate", [0.0, 0.29, 1.0])
def test_sizes_cost_nothing(llama, rate):
    prompt = shaped("usual")

    def look(probe):
        assert probe.candidates.tolist() == list(range(5, 60))
        assert probe.n_question == 9
        assert probe.budget == int(55 * rate)
        assert probe.rate == rate
        assert probe.item_id == "7"
        assert probe.headers.lengths == (1,)
        assert probe.n_layers == 4
        assert probe.scale == 0.25
        assert probe.flight is None
        assert probe.asked == []

    assert len(ask(llama, prompt, look, rate).passes) == 1


def test_offline_scores_are_those_of_the_documents(llama):
    prompt = shaped("usual")

    def look(probe):
        for name in ("surprisal", "sinks"):
            scores = probe.scores(name)
            assert scores.shape == (55,)
            assert scores.dtype == torch.float32
        assert [i for i, s in enumerate(probe.scores("surprisal")) if s == 0] == [0, 30, 31]

    ask(llama, prompt, look)
