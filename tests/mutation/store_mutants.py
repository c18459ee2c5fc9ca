"""Mistakes in the chunk store that would lose, mistake or keep what they should not.

Plain data: what, file, text that occurs there once, what stands there instead, test files.
"""

from __future__ import annotations

from tests.mutation.engine_mutants import Row, _in_file

FILES = "tests/chunks/test_chunk_files.py"
PINS = "tests/chunks/test_pins.py"
INDEX = "tests/chunks/test_chunk_index.py"
REMOTE = "tests/chunks/test_remote_chunks.py"
COMMANDS = "tests/store/test_store_commands.py"

MUTANTS: list[Row] = [
    *_in_file(
        "models/chunks/format.py",
        (FILES,),
        ("a header is believed", 'said["header"] != _digest(said, found)', "False"),
        ("a file may be of any length", "if end != size:", "if False:"),
        ("tensors are not aligned", "if gap := -at % ALIGN:", "if gap := 0:"),
    ),
    *_in_file(
        "models/chunks/file.py",
        (FILES,),
        ("a payload is believed", "digest.hexdigest() != self._header.payload", "False"),
        ("any chunk will do", "key != self._header.key", "False"),
        (
            "a file verified once is so for ever",
            "self._identity in _verified",
            "len(_verified) > 0",
        ),
    ),
    *_in_file(
        "models/chunks/folder.py",
        (FILES, PINS),
        ("damaged chunks stay", "if self.holds(key, verify=True):", "if self.holds(key):"),
        ("a use is not noted", "        touch(path)\n", ""),
        ("a written chunk is not pinned", "self._pins.replaced(key, path)", "None"),
    ),
    *_in_file(
        "models/chunks/pins.py",
        (PINS, COMMANDS),
        ("pins do not lock", "fcntl.flock(file, fcntl.LOCK_SH)", "None"),
        ("locks are not asked for", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "None"),
    ),
    *_in_file(
        "models/chunks/index.py",
        (INDEX,),
        ("an edited index is believed", "digest is None or digest != _sealed(folder)", "False"),
        ("chunks that are gone stay", "DELETE FROM chunks WHERE key NOT IN", "SELECT 1 WHERE 0 IN"),
        ("manifests are read once", "if stamp != owner.stamp:", "if stamp is None:"),
        ("repetitions are not counted", "times = times + 1", "times = 1"),
    ),
    *_in_file(
        "models/chunks/remote.py",
        (REMOTE,),
        ("what is fetched is not verified", "                    found.verify()\n", ""),
        ("damaged objects stay", "if not made and self._size(key) == size:", "if True:"),
    ),
    *_in_file(
        "models/chunks/wire.py",
        (REMOTE,),
        ("a refusal is asked again", "isinstance(told, (Missing, Forbidden))", "False"),
        ("nothing is asked again", "range(patience.attempts)", "range(1)"),
    ),
    *_in_file(
        "models/chunks/cache.py",
        (REMOTE,),
        ("the newest go first", "key=lambda chunk: chunk.used", "key=lambda chunk: -chunk.used"),
        (
            "a cache grows for ever",
            "if total > self.room:\n                for",
            "if False:\n                for",
        ),
    ),
    *_in_file(
        "store/gc.py",
        (COMMANDS,),
        ("young chunks go too", "if max(chunk.made, chunk.used) <= before]", "]"),
        ("unread manifests name nothing", "if troubles := index.troubles():", "if troubles := []:"),
        (
            "a budget takes the newest",
            "key=lambda pair: pair[1].used",
            "key=lambda pair: -pair[1].used",
        ),
    ),
]
