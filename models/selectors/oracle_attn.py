"""Upper bound: where the question really looks in its full prefill."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector, top_k
from models.selectors.prophet import document_share


@dataclass
class Selector(BaseSelector):
    """Top-k by :mod:`~models.selectors.prophet`'s score over a real full prefill.

    An oracle: it needs what it is meant to save, so its time is never reported.
    """

    oracle = True

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        if not len(probe.candidates):
            return probe.candidates
        total = torch.zeros(len(probe.candidates), device=probe.device)
        for layer in range(probe.n_layers):
            total += document_share(probe, probe.truth.attention(layer))
        return probe.candidates[top_k(total, probe.budget)]
