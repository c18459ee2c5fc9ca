"""``make gate``: run the gates on a real model and a real item, and print the distances."""

from __future__ import annotations

import sys
from chunk.build import ensure

from eval import gating
from models.errors import UserError
from stage.config import ModelConfig
from stage.options import command
from stage.session import begin


def main(config: ModelConfig) -> None:
    """Print the gate's table; a failure is exit code 2."""
    session = next(begin(config, ensure))
    outcomes = []
    for codec in config.codec:
        outcomes.append(gating.run(session.under(codec)))
        coded = "" if config.layout == "item" else f", chunks under {codec}"
        where = f"{session.weights.dtype}, {session.weights.backend} attention{coded}"
        print(f"{session.source.name}, {where}")
        print(gating.table(outcomes[-1]))
    if not all(outcome["passed"] for outcome in outcomes):
        raise UserError(f"{session.source.name} fails its gate; do not trust figures of it")


if __name__ == "__main__":
    sys.exit(command("gate", ModelConfig, main))
