"""Calls to a remote file system: bounded in time, tried again, their failures told apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from models.chunks.troubles import ChunkError, Forbidden, Missing, Unreachable
from models.errors import UserError

T = TypeVar("T")
# What the libraries behind fsspec raise where nobody may look; each is known by its name alone,
# since none of them need be installed.
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
    "DefaultCredentialsError", "ClientAuthenticationError",
)  # fmt: skip
_DENIED = (401, 403)


@dataclass(frozen=True)
class Patience:
    """How long a remote is waited for.

    Attributes
    ----------
    attempts : how often a call is made before it counts as failed. pause : seconds before the
        second; each further pause is twice as long. silence : seconds without an answer, or
        without a byte of it, after which an attempt has failed.
    """

    attempts: int = 4
    pause: float = 0.5
    silence: float = 30.0


class Progress:
    """When an answer, or a piece of it, came last."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def note(self) -> None:
        self.last = time.monotonic()


def call(place: str, patience: Patience, work: Callable[[Progress], T]) -> T:
    """Do ``work`` until it succeeds, or is refused for good, or patience is out.

    Parameters
    ----------
    place : what is reached for, as the message names it.
    work : done in a thread of its own, which is left behind where it does not answer; it must bear
        that. It notes its progress.

    Raises
    ------
    Missing, Forbidden : at once. Damaged, Unreachable : after the last attempt.
    """
    pause = patience.pause
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            return _within(patience.silence, work)
        except BaseException as error:
            told = _told(place, error)
            if told is None:
                raise
            last = told
            if isinstance(told, (Missing, Forbidden)):
                break
    raise last from None


def _within(seconds: float, work: Callable[[Progress], T]) -> T:
    """The result of ``work``; TimeoutError after so many seconds without progress."""
    progress = Progress()
    done = threading.Event()
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((work(progress), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            found.append((None, error))
        done.set()

    threading.Thread(target=run, daemon=True, name="kvfuse-remote").start()
    while not done.wait(max(0.0, progress.last + seconds - time.monotonic())):
        if time.monotonic() - progress.last >= seconds:
            raise TimeoutError(f"nothing came for {seconds:g} s")
    result, error = found[0]
    if error is not None:
        raise error
    return result


def _told(place: str, error: BaseException) -> ChunkError | None:
    """A failure in one line; None for what is none of a remote's."""
    status = getattr(error, "status", getattr(error, "code", None))
    if isinstance(error, ChunkError):
        return error
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    if isinstance(error, FileNotFoundError):
        return Missing(f"{place} is missing; make precompute builds it")
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ in _NO_CREDENTIALS
        or status in _DENIED
    ):
        return Forbidden(
            f"{place} may not be reached ({_short(error)}); check credentials and permissions"
        )
    return Unreachable(
        f"{place} does not answer ({_short(error)}); check the network, or try later"
    )


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines and lines[0] else type(error).__name__
