"""The roof: the command, doctor and the public API. It imports the rest, nothing imports it.

kvfuse runs from its checkout: configuration, samples and the stages' own folders lie there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "models" / "engine.py").is_file():
    raise SystemExit(
        "kvfuse: installed without its checkout; it runs from there: make setup, or pip install -e"
    )
if sys.path[0] != str(ROOT):
    # In front of the standard library, which has a module `chunk` of its own before Python 3.13.
    sys.path.insert(0, str(ROOT))
