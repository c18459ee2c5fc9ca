"""Answers of full prefills, kept for later runs of the same code over the same items."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.atomic import remove_leftovers, writing
from models.errors import UserError
from models.sealed import digest, parse, seal, unseal

FOLDERS = 8  # of a model: one for each code, dtype, machine; the oldest go


class KeptAnswers:
    """One small sealed file an item, in a folder for everything that decides an answer.

    A later run still does and times the full prefill; it is spared the decoding of its answer.

    Parameters
    ----------
    root : the folder of the model's runs.
    identity : all that an answer depends on besides the item.
    """

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self.folder = root / ".answers" / digest(identity)[:16]
        remove_leftovers(self.folder)  # of somebody who writes just now, it costs one answer

    def recall(self, prompt: str) -> tuple[list[int], int | None] | None:
        """Tokens and stop token of the answer to a prompt of this hash; None where not known."""
        try:
            found = unseal(parse(self._path(prompt).read_bytes()))
            tokens = [int(token) for token in found["tokens"]]
            stop = None if found["stop"] is None else int(found["stop"])
            return (tokens, stop) if found["prompt"] == prompt else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, prompt: str, tokens: list[int], stop: int | None) -> None:
        """Keep an answer; a folder that cannot be written only costs the next run its decoding."""
        with suppress(UserError, OSError):
            if not self.folder.is_dir():
                self._make_room()
            with writing(self._path(prompt)) as file:
                content = seal({"prompt": prompt, "tokens": tokens, "stop": stop})
                file.write(json.dumps(content).encode())

    def _path(self, prompt: str) -> Path:
        return self.folder / f"{prompt[:32]}.json"

    def _make_room(self) -> None:
        """Remove the folders that were made first."""
        if self.folder.parent.is_dir():
            folders = sorted(self.folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in folders[: max(0, len(folders) - FOLDERS + 1)]:
                shutil.rmtree(old)
