"""What ``make study`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from eval.study.plan import parts
from models.errors import UserError
from models.load import source
from stage.config import MODEL, MachineOptions
from stage.options import option


@dataclass
class StudyConfig(MachineOptions):
    """Run a part of the study on each model, go on where it was left, and test its claims."""

    part: str = option(
        "test", "test (default), development or times, as config/study.yaml has them"
    )
    models: list[str] = option([MODEL], "models, each as MODEL= takes it")
    limit: int | None = option(None, "only the first so many items of the part")
    dataset: str | None = option(None, "other items than the part's: a dataset (the part's)")
    times: str | None = option(None, "study.json of a quiet run, whose TTFTs the picture shows")
    inputs: str = option("inputs", "folder of stage 1's results")
    kvs: str = option("kvs", "folder of stage 2's results")
    outputs: str = option("outputs", "folder of stage 3's results")

    def __post_init__(self) -> None:
        self.check_threads()
        for model in self.models:
            source.check(model)
        if self.part not in parts():
            raise UserError(f"PART={self.part} is unknown: give {' or '.join(parts())}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"LIMIT={self.limit} asks for no items; give 1 or more")
