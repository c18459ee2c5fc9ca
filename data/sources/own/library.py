"""The library `datasets`, imported where it is used (it takes a second) and kept quiet."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quietly() -> Iterator[Any]:
    """The library, without log lines, and without progress bars but on a terminal."""
    import datasets

    level, barred = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not barred:
            datasets.enable_progress_bars()


def reason(error: BaseException) -> str:
    """One line on what went wrong: the first cause, which later errors only wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
