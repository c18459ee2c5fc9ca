"""Key norms: rows whose keys are short stay (Devoto et al., 2024, arXiv:2406.11430)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.eviction.base import BasePolicy, Rows
from models.extension import option


@dataclass
class Policy(BasePolicy):
    """score = -‖k‖₂, of each K/V head by itself; the first layers may be left whole.

    A rotation does not change a norm, so it does not matter that the keys are rotated.

    Between the lines: the paper leaves the first two layers whole for long contexts, and says that
    norm and attention go together least there. Here ``whole`` is 0 unless asked for.

    Cost: one norm a row.
    """

    whole: int = option(0, "knorm: so many first layers evict nothing (0)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whole < 0:
            raise UserError(f"WHOLE={self.whole} must be at least 0")

    def score(self, rows: Rows) -> Tensor:
        """``[B, H_kv, N]``."""
        scores = -torch.linalg.vector_norm(rows.keys.float(), dim=-1)
        return scores.masked_fill(~rows.valid[:, None], -torch.inf)

    def room(self, prompt: int, layer: int, n_layers: int) -> int | None:
        """None in the layers that stay whole."""
        return None if layer < self.whole else super().room(prompt, layer, n_layers)
