"""Upper bound: the tokens whose cached KVs are furthest from those of the full prefill."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.probe import Probe
from models.selectors import BaseSelector, top_k


@dataclass
class Selector(BaseSelector):
    """Top-k of Σ over layers of squared deviation, keys and values, from a real full prefill.

    Each layer's deviations, of keys and of values, are divided by the mean squared norm of the true
    rows there, so that layers with large states do not decide alone. An oracle: it needs what it is
    meant to save, so its time is never reported.
    """

    oracle = True

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        total = torch.zeros(len(probe.candidates), device=probe.device)
        documents = slice(*probe.prompt.documents)
        for layer in range(probe.n_layers):
            for kind in (0, 1):
                true = probe.truth.kv[kind, layer][:, documents].float()
                gap = probe.cached(kind, layer).float() - true
                norm = true.square().sum((0, 2)).mean()
                total += gap.square().sum((0, 2)) / norm
        return probe.candidates[top_k(total, probe.budget)]
