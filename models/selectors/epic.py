"""LegoLink: the first tokens of every chunk (EPIC; Hu et al., 2024, arXiv:2410.15332)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.probe import Probe
from models.selectors.base import BaseSelector, option
from models.selectors.shares import largest_remainder


@dataclass
class Selector(BaseSelector):
    """The first ``lego_k`` tokens of each chunk, or k tokens shared by chunk length.

    With ``lego_k`` the rate is not looked at, as published. Without it every chunk gives its share
    of the budget, so that the method can be compared with others at one rate. Cost: none.
    """

    lego_k: int | None = option(None, "epic: tokens of each chunk, instead of the rate's share")

    def __post_init__(self) -> None:
        if self.lego_k is not None and self.lego_k < 0:
            raise UserError(f"LEGO_K={self.lego_k} must be at least 0")

    @property
    def knows_rate(self) -> bool:
        return self.lego_k is None

    def select(self, probe: Probe) -> Tensor:
        """``[k]`` positions."""
        chunks = probe.prompt.chunks
        lengths = [end - start for start, end in chunks]
        if self.lego_k is None:
            counts = largest_remainder(lengths, probe.budget)
        else:
            counts = [min(self.lego_k, length) for length in lengths]
        heads = [
            torch.arange(start, start + count, device=probe.device)
            for (start, _), count in zip(chunks, counts, strict=True)
        ]
        return torch.cat([probe.candidates[:0], *heads])
