"""A command run in this process, and all that it says: also what libraries write past Python."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from stage.options import command
from tests.stages.harness import Outcome

ESCAPED = -1
# What Python hides from who runs a command.
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def heard(stage: str, config: Any, main: Any, words: list[Any], more: Any = None) -> Outcome:
    """Run a stage; an exception that escapes it is the code ``ESCAPED`` and a line on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        below_python() as below,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("default")
        for kind in HIDDEN:
            warnings.simplefilter("ignore", kind)
        try:
            code = command(stage, config, main, list(map(str, words)), more)
        except Exception as error:  # noqa: BLE001 - what this looks for
            code = ESCAPED
            err.write(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}\n")
    for warning in warned:
        err.write(f"{warning.category.__name__}: {warning.message}\n")
    return Outcome(code, out.getvalue(), err.getvalue() + "".join(below))


@contextlib.contextmanager
def below_python() -> Iterator[list[str]]:
    """What is written to file descriptor 2 meanwhile, in the list once the block has ended."""
    heard: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))
