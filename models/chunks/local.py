"""The chunks and manifests of one model in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.atomic import disk_errors
from models.chunks import manifests
from models.chunks.folder import Folder
from models.chunks.index import Files, Owner
from models.chunks.troubles import reading


class Local(Folder):
    """Chunks at ``<kvs>/<model>/chunks``, manifests at ``<kvs>/<model>/<owner>/kvs.json``."""

    def files(self) -> Files:
        """What an index is made from."""
        return Files(self.chunks, self._owners, self._keys)

    def manifest(self, owner: str) -> dict[str, Any]:
        """An owner's manifest."""
        return manifests.read(self.root.parent, owner)

    def refer(self, owner: str, keys: Sequence[str], content: Mapping[str, Any]) -> None:
        """Write an owner's manifest."""
        manifests.write(self.root.parent, owner, keys, content)

    def release(self, owner: str) -> None:
        """Remove an owner's manifest, if there is one."""
        path = self.root.parent / manifests.name_of(owner)
        with disk_errors(path):
            path.unlink(missing_ok=True)

    def _temporaries(self) -> Iterator[Path]:
        yield from super()._temporaries()
        yield from self.root.parent.glob(f"*/*/.{manifests.NAME}.*.tmp")

    def _keys(self, owner: str) -> list[str]:
        return manifests.keys_of(self.manifest(owner))

    def _owners(self) -> Iterator[Owner]:
        base = self.root.parent
        for dataset in _folders(base):
            if dataset == self.root:
                continue
            for item in _folders(dataset):
                path = item / manifests.NAME
                try:
                    stat = path.stat()
                    stamp = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
                except FileNotFoundError:
                    continue
                except OSError:
                    stamp = ""  # why is told when it is read
                yield Owner(item.relative_to(base).as_posix(), stamp)


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, by name."""
    with reading(path):
        try:
            return sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_dir())
        except FileNotFoundError:
            return []
