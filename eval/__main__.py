"""Stage 3: inputs and KVs become outputs/<model>/<dataset>/<run>/.

Run it from the repository root: ``python -m eval --reuse debug --rate 0.15``.
"""

from __future__ import annotations

from eval.config import EvalConfig
from eval.report import overview
from eval.report import table as report
from eval.runner import Warm, evaluate_dataset
from stage.options import run
from stage.session import begin


def main(config: EvalConfig) -> None:
    """Evaluate every method on every item of every dataset named, and print one table."""
    if config.check_options:
        return
    warm: Warm = set()
    by_dataset = [evaluate_dataset(session, config, warm) for session in begin(config)]
    if len(by_dataset) == 1:
        print(f"\n{report.compared(by_dataset[0])}")
    else:
        print(f"\n{overview.table(by_dataset)}")


if __name__ == "__main__":
    run(EvalConfig, main, "eval")
