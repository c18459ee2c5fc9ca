"""One run's folder: its configuration, finished items as they come, and the results at the end."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from eval.record import RUN, from_line, to_line
from models.atomic import disk_errors, remove_leftovers, writing
from models.errors import UserError
from models.sealed import parse, seal, unseal


class RunFolder:
    """``outputs/<model>/<dataset>/<run>/`` with ``config.json``, ``records.jsonl``, ``result.*``.

    Parameters
    ----------
    root : folder of the dataset's runs.
    label : readable beginning of the run's name; a hash over ``config`` ends it.
    config : every setting that changes the result.
    machine : what must stay the same for times to belong together; checked when a run is resumed.
    """

    def __init__(
        self, root: Path, label: str, config: dict[str, Any], machine: dict[str, Any]
    ) -> None:
        self.run = digest(config)
        self.path = root / f"{label}-{self.run}"
        self.config = config
        self.machine = machine
        self.records: dict[str, dict[str, Any]] = {}
        self.appended = 0  # records that this process made
        self._file: IO[bytes] | None = None

    def holds(self, items: Collection[str]) -> bool:
        """Whether all these items are finished in it, looked up without taking the folder."""
        try:
            lines = (self.path / "records.jsonl").read_bytes().splitlines()
            return {from_line(line, self.run)["id"] for line in lines if line.strip()} >= set(items)
        except (OSError, ValueError):
            return False

    @contextlib.contextmanager
    def opened(self, fresh: bool = False) -> Iterator[RunFolder]:
        """Take the folder for this process, read what is finished, and append to it.

        Raises
        ------
        UserError : written by another configuration or on another machine, in use by another
            process, or not writable.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = (self.path / "records.jsonl").open("a+b")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path} is in use by another eval; wait for it") from None
            remove_leftovers(self.path)
            if fresh:
                self._clear()
            self._check_or_save()
            self._read_records()
            yield self
        finally:
            with contextlib.suppress(OSError):  # a record that a full disk refused, told already
                self._file.close()
            self._file = None

    def _clear(self) -> None:
        """Throw away what the folder holds; the lock is ours, so nobody is writing there."""
        assert self._file is not None
        with disk_errors(self.path):
            self._file.truncate(0)
            for path in self.path.iterdir():
                if path.name != "records.jsonl":
                    path.unlink()

    def _check_or_save(self) -> None:
        path = self.path / "config.json"
        present = {"config": self.config, "machine": self.machine}
        if not path.exists():
            if self._file and os.fstat(self._file.fileno()).st_size:
                raise UserError(f"{path} is missing beside its records; start over with FRESH=1")
            with writing(path) as file:
                file.write(dumps(seal(present)))
            return
        try:
            saved = unseal(parse(path.read_text(encoding="utf-8")))
            parts = [(present[part], dict(saved[part])) for part in present]
        except IsADirectoryError:
            raise UserError(f"{path} is a folder; move it away") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); start over with FRESH=1") from None
        for ours, theirs in parts:
            for key in sorted(ours.keys() | theirs.keys()):
                then, now = theirs.get(key), ours.get(key)
                if then != now:
                    raise UserError(
                        f"{self.path} was begun with {key}={then!r}, this run has {now!r}; its "
                        "results do not mix: start over with FRESH=1 or name another OUTPUTS="
                    )

    def _read_records(self) -> None:
        """Finished items. A line that a killed run left half written is cut off.

        Any other damaged line costs its own item only: it is told, and the item is done again.
        """
        assert self._file is not None
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        damaged = []
        for number, line in enumerate(whole.split(b"\n"), 1):
            try:
                if line.strip():
                    record = from_line(line, self.run)
                    self.records[record["id"]] = record
            except ValueError as error:
                damaged.append(f"{number} ({error})")
        if damaged:
            print(
                f"eval: {self.path}/records.jsonl: damaged or edited: line {', '.join(damaged)}; "
                "left out, and its item done again",
                file=sys.stderr,
            )

    def append(self, record: dict[str, Any]) -> None:
        """Keep one finished item, on disk before this returns.

        Raises
        ------
        UserError : a figure is NaN or infinite, or the disk refuses it.
        """
        assert self._file is not None
        try:
            line = to_line(record, self.run)
        except ValueError as error:
            raise UserError(
                f"item {record['id']} of {self.path.name} cannot be kept: {error}"
            ) from None
        with disk_errors(self.path / "records.jsonl"):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records[record["id"]] = record
        self.appended += 1

    def result(self) -> dict[str, Any] | None:
        """What an earlier process concluded; None where it did not, or where that was damaged."""
        try:
            return read_result(self.path / "result.json")
        except UserError:
            return None

    def finish(self, result: dict[str, Any], text: str) -> None:
        """Write ``result.json`` and ``result.txt``."""
        with writing(self.path / "result.json") as file:
            file.write(dumps(seal({RUN: self.run, **result})))
        with writing(self.path / "result.txt") as file:
            file.write(text.encode())


def read_result(path: Path) -> dict[str, Any]:
    """A run's ``result.json``.

    Raises
    ------
    UserError : it cannot be read, was damaged or edited, or comes from another run or an earlier
        version.
    """
    try:
        result = unseal(parse(path.read_text(encoding="utf-8")))
        if not path.parent.name.endswith(f"-{result.pop(RUN, None)}"):
            raise ValueError("of another run")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or of an earlier version ({error}); the same make eval writes it "
            "anew, or remove it"
        ) from None
    return result


def digest(config: Any) -> str:
    """8 hex over a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def dumps(value: Any) -> bytes:
    """Indented JSON; infinities and NaN are refused, since not every reader knows them."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
