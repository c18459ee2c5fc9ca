"""What ``make report`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stage.config import StageConfig
from stage.options import option


@dataclass
class ReportConfig(StageConfig):
    """Tables over the finished runs of a model and dataset, and one page over all runs."""

    folders: list[str] = option([], "folders whose runs the page shows (OUTPUTS)")
    page: bool = option(True, "0 prints the tables only")

    def roots(self) -> list[Path]:
        """Where the page looks for runs."""
        return [Path(folder) for folder in self.folders or [self.outputs]]
