"""A linear map of low rank from cached rows to their change: few directions, more certain ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.correctors import ridge
from models.errors import UserError
from models.extension import option


@dataclass
class Corrector(ridge.Corrector):
    """As ``ridge``, with a map of at most ``rank`` directions by head.

    The best one of that rank by ridge's own loss: with M the map of full rank and G the change less
    its median, M V Vᵀ, where V are the ``rank`` first eigenvectors of Mᵀ Xᵀ G (reduced rank ridge
    regression; Mukherjee and Zhu, 2011, doi:10.1002/sam.10138). A large ``rank`` leaves ``ridge``.

    Its use here is ours. Cost: beside ``ridge``'s, the eigenvectors of D by D matrices.
    """

    rank: int = option(4, "lowrank: directions of the map (4)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise UserError(f"RANK={self.rank} must be at least 1")

    def fit(self, rows: Tensor, gap: Tensor) -> Tensor:
        """``[H, n, D]`` rows and their change → ``[H, D, D]``."""
        linear = super().fit(rows, gap)
        explained = linear.transpose(1, 2) @ (rows.transpose(1, 2) @ gap)
        symmetric = (explained + explained.transpose(1, 2)) / 2  # it is, up to rounding
        vectors = torch.linalg.eigh(symmetric).eigenvectors[:, :, -self.rank :]
        return linear @ vectors @ vectors.transpose(1, 2)
