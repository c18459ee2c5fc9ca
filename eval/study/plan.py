"""What a study runs: its parts, as ``config/study.yaml`` names them."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import UserError

PLAN = Path(__file__).resolve().parent.parent.parent / "config" / "study.yaml"


class Sweep(BaseModel):
    """Methods at rates, behind every context and with every corrector that is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reuse: list[str]
    rate: list[float]
    context: list[str] = ["auto"]
    correct: list[str] = ["auto"]


class Part(BaseModel):
    """Sweeps over the same items of one dataset: ``limit`` of them, behind the first ``skip``.

    Distances are along the first ``max_new_tokens`` of the full prefill's answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    skip: int
    limit: int
    max_new_tokens: int
    sweeps: list[Sweep]


def parts(path: Path = PLAN) -> dict[str, Part]:
    """The study's parts by name.

    Raises
    ------
    UserError : a file that is none, or that has a part with other keys.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: Part.model_validate(part) for name, part in found.items()}
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {place}: {first['msg']}") from None
