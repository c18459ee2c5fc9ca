"""What ``kvfuse store`` can be asked for: each action takes the options that matter to it."""

from __future__ import annotations

from dataclasses import dataclass

from models.chunks.sizes import parsed
from models.errors import UserError
from stage.options import option

LONGEST = 10**9  # minutes


@dataclass
class StoreConfig:
    """Which stores."""

    kvs: str = option("kvs", "folder or URL below which the models' stores lie")
    model: str | None = option(None, "one model's store, by its folder's name (all of them)")
    cache: str = option("20GB", "of a URL: room on this machine for what is fetched (20GB)")

    def __post_init__(self) -> None:
        self.room()

    def room(self) -> int:
        """Bytes of a remote's cache."""
        return parsed(self.cache, "CACHE")


@dataclass
class GcConfig(StoreConfig):
    """Remove chunks that nobody refers to and, above a budget, those not used longest."""

    bytes: str | None = option(None, "a budget, as 50GB: the least recently used go above it")
    grace: float = option(60.0, "minutes since its last use that an unnamed chunk stays (60)")
    dry: bool = option(False, "1 says what would go, and removes nothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.budget()
        if not 0 <= self.grace <= LONGEST:
            raise UserError(f"GRACE={self.grace:g}: give minutes, 0 to {LONGEST}")

    def budget(self) -> int | None:
        """Bytes that may stay; None for all."""
        return None if self.bytes is None else parsed(self.bytes, "BYTES")


@dataclass
class RmConfig(StoreConfig):
    """Remove what a dataset's items refer to; their chunks stay until ``gc``."""

    dataset: str | None = option(None, "the dataset's folder, as `kvfuse store ls` names it")
    dry: bool = option(False, "1 says what would go, and removes nothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is None:
            raise UserError("name whose references go: DATASET=; kvfuse store ls lists them")
