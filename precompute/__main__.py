"""Stage 2: inputs become kvs/<model>/<dataset>/item_<id>/{kvs.pt, surprisal.pt, sinks.pt}.

Run it from the repository root: ``python -m precompute --dataset 2wikimqa``.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.kv.store import SCORES
from precompute.build import precompute
from stage.options import option, run
from stage.session import ModelConfig, begin


@dataclass
class PrecomputeConfig(ModelConfig):
    """Encode every chunk by itself and keep its unrotated keys and its values."""

    surprisal: bool = option(False, "keep each token's surprisal as well (surprisal.pt)")
    sinks: bool = option(False, "keep the attention that each token draws as well (sinks.pt)")

    @property
    def scores(self) -> list[str]:
        """What is kept beside the KVs."""
        return [name for name in SCORES if getattr(self, name)]


def main(config: PrecomputeConfig) -> None:
    """Precompute every dataset named."""
    for session in begin(config):
        precompute(session, config.scores)


if __name__ == "__main__":
    run(PrecomputeConfig, main, "precompute")
