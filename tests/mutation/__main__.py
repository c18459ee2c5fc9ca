"""Run the mutants: ``python -m tests.mutation [words]``, those whose line holds all the words.

Prints which test noticed each; leaves with 1 if any survived and with 2 if a mutant is stale or the
tests fail without one. Minutes: every mutant is a test run of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutation.mutant import Mutant, Stale
from tests.mutation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "inputs", "kvs", "outputs", "node_modules"
)
SECONDS = 600  # for the tests of one mutant: it may make them run forever
FAILED, BROKEN = 1, "BROKEN"


def main(words: list[str]) -> int:
    """Try the mutants that are asked for; returns the exit code."""
    chosen = [m for m in MUTANTS if all(word in f"{m.file} {m.what}" for word in words)]
    if not chosen:
        print(f"mutation: no mutant of {len(MUTANTS)} has {' '.join(words)!r}", file=sys.stderr)
        return 2
    try:
        for mutant in chosen:
            mutant.applied(ROOT)
    except Stale as error:
        print(f"mutation: stale: {error}", file=sys.stderr)
        return 2
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    failed = run(None, tests)
    if failed is not None:
        print(f"mutation: without a mutant, too, {failed} fails", file=sys.stderr)
        return 2
    width = max(len(mutant.what) for mutant in chosen)
    survived = 0
    for mutant in chosen:
        killer = run(mutant, list(mutant.tests), SECONDS)
        survived += killer is None or killer == BROKEN
        print(
            f"{mutant.what:<{width}}  {f'killed by {killer}' if killer else 'SURVIVED'}", flush=True
        )
    print(f"\n{len(chosen) - survived} of {len(chosen)} mutants were noticed")
    return 1 if survived else 0


def run(mutant: Mutant | None, tests: list[str], seconds: float | None = None) -> str | None:
    """Run the tests on a copy of the checkout; the first that fails, or None.

    ``BROKEN`` where they could not be run at all, as after a replacement that is no Python: that
    shows nothing.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        if mutant is not None:
            (copy / mutant.file).write_text(mutant.applied(ROOT), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-x", "-q", "-rfE"]
        command += ["--tb=no", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return f"{tests[0]}, which does not end"
    if done.returncode == 0:
        return None
    found = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if done.returncode == FAILED and found else BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
