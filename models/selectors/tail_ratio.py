"""The end of the documents, nearest to the question: a control without any measurement."""

from dataclasses import dataclass

from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector


@dataclass
class Selector(BaseSelector):
    """The last k document positions. Cost: none."""

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        return probe.candidates[len(probe.candidates) - probe.budget :]
