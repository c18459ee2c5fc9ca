"""Stored files read back: whole, as they were written, and made from what the run expects."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError
from models.kv.format import difference, digest, file_name, mismatch, tensor_name
from models.kv.pagecache import advise

Identity = tuple[str, int, int, int]

_verified: set[Identity] = set()  # files whose bytes this process has found to be right


class Unusable(UserError):
    """A file that must be built; ``reason`` says why in a word or two, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read(
    path: Path, expected: dict[str, Any], remedy: str, kind: str, verify: bool = False
) -> Tensor:
    """Map one file and check that it is what the run expects.

    Parameters
    ----------
    expected : from :func:`models.kv.format.describe`; every field but names and library versions
        must be equal.
    remedy : the command that rebuilds the file, for the error message.
    kind : ``kv``, ``surprisal`` or ``sinks``.
    verify : hash the bytes as well, unless this process has done so since the file last changed.

    Returns
    -------
    The tensor, backed by the file: nothing of it is read until it is used, or verified.

    Raises
    ------
    Unusable : missing, damaged, or made from something else; the field and both values are named.
    """
    with refusals(path, remedy):
        file = _identity(path)  # before it is opened: one that replaces it later is another
        content = _loaded(path)
        if not isinstance(content, dict):
            raise TypeError("no dict")
        tensor, meta = content[tensor_name(kind)], dict(content["meta"])
        differs = difference(meta, expected)
        if differs:
            raise Unusable(
                f"of other {differs[0].partition('.')[0]}",
                f"{path} does not fit this run: {mismatch(meta, expected)}; rebuild it: {remedy}",
            )
        wrong = _misfit(content, tensor, kind)
        if not wrong and verify and file not in _verified:
            advise(path, "POSIX_FADV_WILLNEED")  # not one page fault after another
            if digest(content) == content["digest"]:
                _verified.add(file)
            else:
                wrong = "its bytes are not those that were written"
        if wrong:
            raise _damaged(path, wrong, remedy)
    return tensor


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what damaged bytes look like: they are told as damage
        return torch.load(path, mmap=True, weights_only=True)


def condition(folder: Path, expected: dict[str, Any], scores: Collection[str] = ()) -> str | None:
    """Why an item's files must be built: ``missing``, ``damaged``, ``of other tokens`` ...

    None where the KVs and these scores are there, whole and what ``expected`` says.
    """
    try:
        for kind in ("kv", *scores):
            read(folder / file_name(kind), expected, "", kind, verify=True)
    except Unusable as error:
        return error.reason
    return None


def is_complete(folder: Path, expected: dict[str, Any], scores: Collection[str] = ()) -> bool:
    """Whether the KVs and these scores are there, whole and what ``expected`` says."""
    return condition(folder, expected, scores) is None


def _identity(path: Path) -> Identity:
    stat = path.stat()
    return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns


def _misfit(content: dict[str, Any], tensor: Tensor, kind: str) -> str | None:
    """What is wrong with a tensor beside its kind and its meta, as far as a glance can tell."""
    meta = content["meta"]
    shape = meta["shape"] if kind == "kv" else meta["shape"][3:4]
    dtype = meta["dtype"] if kind == "kv" else "float32"
    if content["kind"] != kind:
        return f"it holds {content['kind']}"
    if list(tensor.shape) != shape:
        return f"shape {list(tensor.shape)}, its meta says {shape}"
    if tensor.dtype != getattr(torch, dtype):
        return f"{tensor.dtype}, its meta says {dtype}"
    if not tensor.is_contiguous():
        return "its rows are in another order"
    return None


@contextlib.contextmanager
def refusals(path: Path, remedy: str) -> Iterator[None]:
    """Whatever damaged bytes may raise, in one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise Unusable("missing", f"{path} is missing; build it: {remedy}") from None
    except PermissionError:
        message = f"{path} may not be read; check its permissions"
        raise Unusable("unreadable", message) from None
    except Exception as error:  # noqa: BLE001 - whatever unpickling damaged bytes may raise
        raise _damaged(path, type(error).__name__, remedy) from None


def _damaged(path: Path, why: str, remedy: str) -> Unusable:
    return Unusable("damaged", f"{path} is damaged ({why}); rebuild it: {remedy}")
