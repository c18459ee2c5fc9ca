"""RULER's variable tracking: chains of assignments scattered over noise."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

from data.sources.ruler.niah import NOISE
from data.sources.ruler.sample import Cell, Draft, Sample, with_example
from models.errors import UserError

# RULER fills its example up to 500 tokens in steps of five lines: ten, for usual tokenizers.
_EXAMPLE_LINES = 10
_NAME, _EXAMPLE_NAME = 5, 3


@dataclass(frozen=True)
class Variables:
    """Name every variable that has a value: `num_chains` chains of `num_hops` copies each.

    The first chain is asked for. Every prompt begins with a solved example of its own.
    """

    num_chains: int = 1
    num_hops: int = 4

    def __post_init__(self) -> None:
        if self.num_chains < 1 or self.num_hops < 1:
            raise UserError("num_chains and num_hops must be at least 1")
        if self.num_hops >= _EXAMPLE_LINES:
            raise UserError(f"num_hops must be below {_EXAMPLE_LINES}, the lines of the example")

    def draft(self, cell: Cell) -> Draft:
        """The chains are drawn here; build() draws where their lines stand."""
        stream = cell.stream("chains")
        values = list(map(str, stream.sample(range(10000, 99999), 2 * self.num_chains)))
        example = self._sample(_EXAMPLE_NAME, values, stream, _EXAMPLE_LINES, stream)
        answer = " " + " ".join(example.answers) + "\n\n\n\n"
        chains = cell.stream("names").getstate()

        def build(size: int) -> Sample:
            names = random.Random()
            names.setstate(chains)
            places = cell.stream("places", size)
            made = self._sample(_NAME, values[self.num_chains :], names, size, places)
            context = with_example(cell.dataset, example, answer, made.context)
            return Sample(context, made.input, made.answers)

        return Draft(build, rate=25.0, smallest=self.num_hops + 2)

    def reads(self, haystack: str | None) -> None:
        """Nothing."""

    def _sample(
        self,
        letters: int,
        values: list[str],
        names: random.Random,
        lines: int,
        places: random.Random,
    ) -> Sample:
        count = self.num_chains * (self.num_hops + 1)
        variables: dict[str, None] = {}
        while len(variables) < count:
            name = "".join(names.choices(string.ascii_uppercase, k=letters))
            if name != "VAR":
                variables[name] = None
        chains = [list(variables)[i :: self.num_chains] for i in range(self.num_chains)]
        parts = [NOISE + "\n"] * lines
        for chain, value in zip(chains, values, strict=False):
            # Places are counted before anything is put in, so a later line stands after an earlier.
            spots = sorted(places.sample(range(len(parts)), len(chain)))
            for offset, spot in enumerate(spots):
                parts.insert(spot + offset, _assignment(chain, offset, value))
        return Sample(" ".join(parts), values[0], chains[0])


def _assignment(chain: list[str], step: int, value: str) -> str:
    if step == 0:
        return f"VAR {chain[0]} = {value}"
    return f"VAR {chain[step]} = VAR {chain[step - 1]} "
