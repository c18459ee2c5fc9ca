"""Plain concatenation: even the question's cached KVs are used, only the last token is computed."""

from dataclasses import dataclass

from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector


@dataclass
class Selector(BaseSelector):
    """The last token of the prompt, whatever the rate. Cost: none."""

    adds_question = False
    knows_rate = False

    def select(self, probe: Probe) -> Tensor:
        """The last position, ``[1]``."""
        return probe.candidates.new_tensor([len(probe.prompt) - 1])
