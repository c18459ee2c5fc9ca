"""What ``kvfuse compare`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from models.errors import UserError
from stage.options import option


@dataclass
class CompareConfig:
    """Two runs item by item: run folders of ours, or per-sample JSON of LMCache's benchmark."""

    a: str | None = option(None, "a run's folder below outputs/, or LMCache's rag-qa-quality JSON")
    b: str | None = option(None, "the other one, which is subtracted")
    seed: int = option(0, "seed of the bootstrap and of the permutation test (0)")
    given: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"SEED={self.seed} must be at least 0")

    def paths(self) -> tuple[Path, Path]:
        """Both places; raises UserError where one is not named."""
        if self.a is None or self.b is None:
            raise UserError("name two runs: kvfuse compare A B, or make compare A=... B=...")
        return Path(self.a), Path(self.b)
