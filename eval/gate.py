"""``make gate``: run the gates on a real model and a real item, and print the distances."""

from __future__ import annotations

from eval import gating
from models.errors import UserError
from stage.options import run
from stage.session import ModelConfig, begin


def main(config: ModelConfig) -> None:
    """Print the gate's table; a failure is exit code 2."""
    session = next(begin(config))
    outcome = gating.run(session)
    print(f"{session.source.name}, {session.loaded.dtype}, {session.engine.backend} attention")
    print(gating.table(outcome))
    if not outcome["passed"]:
        raise UserError(f"{session.source.name} fails its gate; do not trust figures of it")


if __name__ == "__main__":
    run(ModelConfig, main, "gate", "eval.gate")
