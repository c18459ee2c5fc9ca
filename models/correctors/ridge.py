"""A linear map from cached rows to their change, fitted on the rows that are recomputed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.correctors import shift
from models.correctors.base import Change
from models.errors import UserError
from models.extension import option


@dataclass
class Corrector(shift.Corrector):
    """``shift``, and by K/V head a ridge regression of what is left of the change on the row.

    Of a chunk's recomputed rows, with x cached and g the change (keys without their rotation):

        M = (XᵀX + λI)⁻¹ Xᵀ(G − median G),  X = x − mean x,  λ = ridge · mean ‖X‖²
        added to a cached row c = shift + (c − mean x) M

    λ is in lengths of a row, so that where all D dimensions vary alike the fit is shrunk by
    n / (n + ridge · D): few rows say little. A large ``ridge`` leaves ``shift``.

    Ridge regression is Hoerl and Kennard's (1970); its use here is ours. Cost: beside ``shift``'s,
    a system of n equations by head, and a product with each row of the chunk.
    """

    ridge: float = option(1.0, "ridge, lowrank: penalty, in mean squared lengths of a row (1)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.ridge) and self.ridge > 0):
            raise UserError(f"RIDGE={self.ridge} must be a number above 0")

    def correct(self, change: Change) -> dict[int, Tensor]:
        """``[H_kv, length, D]`` for keys, values or both."""
        weight = change.rows / (change.rows + self.shrink)
        return {kind: self._added(change, kind, weight) for kind in shift.KINDS[self.what]}

    def _added(self, change: Change, kind: int, weight: float) -> Tensor:
        cached, gap = change.cached(kind), change.of(kind)
        known = cached[:, change.at]
        centre, common = known.mean(1, keepdim=True), shift.median(gap)[:, None]
        linear = self.fit(known - centre, gap - common)
        return common * weight + (cached - centre) @ linear

    def fit(self, rows: Tensor, gap: Tensor) -> Tensor:
        """``[H, n, D]`` rows and their change → ``[H, D, D]``, by a system of n equations."""
        products = rows @ rows.transpose(1, 2)
        length = products.diagonal(dim1=1, dim2=2).mean(1)
        # A single row is its own mean: any penalty gives nothing then, but none would give NaN.
        penalty = torch.where(length > 0, length * self.ridge, torch.ones_like(length))
        # By Cholesky: LU of several large matrices at once, on two threads, comes out wrong or
        # never ends (pytorch/pytorch#142815). In float64 a small penalty still counts.
        system = products.double()
        system.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed.any():
            raise UserError(f"RIDGE={self.ridge:g} is too small for these rows, or they hold NaN")
        return rows.transpose(1, 2) @ torch.cholesky_solve(gap.double(), factor).to(rows.dtype)
