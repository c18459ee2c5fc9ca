"""The folder of this machine in which a remote's chunks are kept: bounded, shared by processes."""

from __future__ import annotations

import threading
from pathlib import Path

from models.chunks.folder import Folder
from models.chunks.sizes import shown
from models.errors import UserError

FULL, KEPT, LOOK = 1.0, 0.9, 0.05


class Cache:
    """Verified copies of chunks, the least recently used of which go when there is no room.

    Several processes may fill one cache. Each looks at all of it after every twentieth of its room
    that it fetched, so that together they pass its room by a twentieth each at most.
    """

    def __init__(self, root: Path, room: int) -> None:
        self.folder = Folder(root)
        self.room = room
        self._guard = threading.Lock()
        self._since: float = room  # what was there before is looked at with the first one

    def grown(self, size: int) -> None:
        """Note that ``size`` bytes came in, and make room where it is due.

        Raises
        ------
        UserError : what is in use is larger than the room.
        """
        with self._guard:
            self._since += size
            if self._since <= self.room * LOOK:
                return
            held = sorted(self.folder.chunks(), key=lambda chunk: chunk.used)
            total = sum(chunk.bytes for chunk in held)
            if total > self.room:
                for chunk in held:
                    if total <= self.room * KEPT:
                        break
                    if self.folder.remove(chunk):
                        total -= chunk.bytes
            self._since = 0
        if total > self.room:
            raise UserError(
                f"the cache {self.folder.root} has {shown(total)} in use and is to have "
                f"{shown(self.room)} at most; give CACHE= more"
            )
