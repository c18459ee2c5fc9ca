"""Stage 3: inputs and KVs become outputs/<model>/<dataset>/<run>/.

Run it from the repository root: ``python -m eval --reuse debug --rate 0.15``.
"""

from __future__ import annotations

from data.cli import run
from data.session import begin
from eval import overview, report
from eval.config import EvalConfig
from eval.runs import Warm, evaluate_dataset


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
