"""``make sweep``: a grid of methods and rates, each item's full prefill and KV load shared.

Run it from the repository root: ``python -m eval.sweep REUSE="debug random" RATE="0.05 0.15"``.
Every point of the grid has its own folder, so a larger grid goes on from a smaller one.
"""

from __future__ import annotations

import sys
from chunk.build import ensure
from pathlib import Path
from typing import Any

from eval.config import SweepConfig
from eval.folder import digest, dumps
from eval.report import grid as sweep_report
from eval.runner import Warm, check_metrics, evaluate_dataset
from eval.variants import make_variants, method_options
from models.atomic import remove_leftovers, writing
from stage.options import command
from stage.session import Session, begin


def main(config: SweepConfig) -> None:
    """Run the grid on every dataset named; each ends with a table, ``sweep.json`` and a picture."""
    check_metrics(config)
    variants, warm = make_variants(config), Warm()
    for session in begin(config, ensure):
        results = evaluate_dataset(session, config, variants, warm)
        print(f"\n{conclude(session, config, results)}")


def conclude(session: Session, config: SweepConfig, results: list[dict[str, Any]]) -> str:
    """Write the sweep's files; returns what is printed."""
    load_ms = next((r["load_ms"] for r in results if r["load_ms"] is not None), None)
    content = sweep_report.content(results, config.seed, load_ms, [r["folder"] for r in results])
    text = sweep_report.text(content)
    name = digest([result["config"] for result in results])
    folder = Path(config.outputs) / session.source.name / session.dataset.name / f"sweep-{name}"
    remove_leftovers(folder)
    with writing(folder / "sweep.json") as file:
        file.write(dumps(content))
    with writing(folder / "sweep.txt") as file:
        file.write(text.encode() + b"\n")
    from eval.report import curves  # brings matplotlib in

    curves.draw(content, folder / "sweep.png")
    return f"{text}\n\nsweep: {folder}/sweep.json, sweep.txt, sweep.png"


if __name__ == "__main__":
    sys.exit(command("sweep", SweepConfig, main, more=method_options))
