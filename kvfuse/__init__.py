"""The roof: the command, doctor and the public API. It imports the rest, nothing imports it.

kvfuse runs from its checkout: configuration, samples and the stages' own folders lie there.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "models" / "engine.py").is_file():
    raise SystemExit(
        "kvfuse: installed without its checkout; it runs from there: make setup, or pip install -e"
    )
if sys.path[0] != str(ROOT):
    # In front of the standard library, which has a module `chunk` of its own before Python 3.13.
    sys.path.insert(0, str(ROOT))

__all__ = ["BaseSelector", "Model", "UserError", "load_model", "register"]

_HOMES = {
    "BaseSelector": "models.selectors",
    "Model": "kvfuse.api",
    "UserError": "models.errors",
    "load_model": "kvfuse.api",
    "register": "models.selectors",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: torch alone takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kvfuse' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
