"""Stage 3: inputs and KVs become outputs/<model>/<dataset>/<run>/.

Run it from the repository root: ``python -m eval REUSE=debug RATE=0.15``. What the stages before
it have not built yet is built first, in the same process.
"""

from __future__ import annotations

import sys
from chunk.build import ensure

from eval.config import EvalConfig
from eval.report import overview
from eval.report import table as report
from eval.runner import Warm, check_metrics, evaluate_dataset
from eval.variants import make_variants, method_options
from stage.options import command
from stage.session import begin


def main(config: EvalConfig) -> None:
    """Evaluate every method on every item of every dataset named, and print one table."""
    check_metrics(config)
    variants, warm = make_variants(config), Warm()
    by_dataset = [
        evaluate_dataset(session, config, variants, warm) for session in begin(config, ensure)
    ]
    if len(by_dataset) == 1:
        print(f"\n{report.compared(by_dataset[0])}")
    else:
        print(f"\n{overview.table(by_dataset)}")


if __name__ == "__main__":
    sys.exit(command("eval", EvalConfig, main, more=method_options))
