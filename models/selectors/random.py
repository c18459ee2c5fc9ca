"""The control that every selector must beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector


@dataclass
class Selector(BaseSelector):
    """``k`` document positions, uniform without replacement, seeded by run and item. Cost: none."""

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        order = torch.randperm(len(probe.candidates), generator=probe.generator)
        return probe.candidates[order[: probe.budget].to(probe.device)]
