"""A folder that is used only as it was made: every file with its size and hash, in a manifest."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from models.load.source import cache_dir
from models.sealed import parse

MANIFEST = "manifest.json"
SMALL = 16 << 20  # files up to so many bytes are hashed whenever the folder is used


def seal(folder: Path) -> None:
    """Write the manifest over all files that lie in `folder`."""
    files = {name: [path.stat().st_size, _sha256(path)] for name, path in _files(folder).items()}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")


def trouble(folder: Path) -> str | None:
    """Where `folder` is not what its manifest says, or None where it is.

    Large files are hashed once for every size and time of change; until then their bytes are taken
    as known.
    """
    try:
        sealed = parse((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        wanted = {name: (int(size), str(digest)) for name, (size, digest) in sealed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return "its manifest is missing or damaged"
    present = _files(folder)
    for name in sorted(present.keys() ^ wanted.keys()):
        return f"{name} is missing" if name in wanted else f"{name} does not belong there"
    for name, (size, digest) in wanted.items():
        found = present[name].stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        hashed = _sha256 if size <= SMALL else content_hash
        if hashed(present[name]) != digest:
            return f"{name} has another content"
    return None


def content_hash(path: Path) -> str:
    """sha256 of the file in hex; remembered by path, size and mtime, as hashing takes long."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memo = cache_dir() / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if memo.is_file():
        text = memo.read_text(encoding="ascii", errors="replace")
        if re.fullmatch("[0-9a-f]{64}", text):
            return text
    digest = _sha256(path)
    memo.parent.mkdir(parents=True, exist_ok=True)
    memo.write_text(digest, encoding="ascii")
    return digest


def _files(folder: Path) -> dict[str, Path]:
    """Files by their path in `folder`, without the manifest and what a file manager leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path for path in files if path.name != MANIFEST}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
