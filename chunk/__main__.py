"""Stage 1: raw rows become token segments, inputs/<model>/<dataset>-<key>.jsonl.

Run it from the repository root: ``python -m chunk DATASET=2wikimqa``.
"""

from __future__ import annotations

import sys
from chunk.build import ensure

from stage.config import InputsConfig
from stage.model import Unloaded
from stage.options import command


def main(config: InputsConfig) -> None:
    """Find or build the inputs of every dataset named."""
    model = Unloaded.find(config.model)
    for dataset in config.datasets():
        ensure(model, dataset, config)


if __name__ == "__main__":
    sys.exit(command("chunk", InputsConfig, main))
