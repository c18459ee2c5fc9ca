"""Full reuse: cached KVs side by side, only the question is computed; the scale's lower end."""

from dataclasses import dataclass

from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector


@dataclass
class Selector(BaseSelector):
    """No document position at all. Cost: none."""

    knows_rate = False

    def select(self, probe: Probe) -> Tensor:
        """Nothing, ``[0]``."""
        return probe.candidates[:0]
