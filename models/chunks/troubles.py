"""Why a chunk cannot be had, told apart: missing, damaged, forbidden, unreachable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from models.errors import UserError


class ChunkError(UserError):
    """A file of the store cannot be had; ``reason`` says why in a word, for counting."""

    reason = "unusable"


class Missing(ChunkError):
    """It is not there: it has to be built."""

    reason = "missing"


class Damaged(ChunkError):
    """It is not what was written: it has to be built anew."""

    reason = "damaged"


class Forbidden(ChunkError):
    """It may not be read or written: permissions or credentials are needed."""

    reason = "forbidden"


class Unreachable(ChunkError):
    """Where it lies does not answer: a disk or a network that fails."""

    reason = "unreachable"


def damaged(place: object, why: str) -> Damaged:
    """The one line about a file that is not what was written."""
    return Damaged(f"{place} is damaged ({why}); make precompute builds it anew")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a disk refuses while ``path`` is read, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"{path} is missing; make precompute builds it") from None
    except PermissionError:
        raise Forbidden(f"{path} may not be read; check its permissions") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise damaged(path, str(error.strerror).lower()) from None
    except OSError as error:
        raise Unreachable(
            f"{path} cannot be read ({error.strerror or error}); check the disk"
        ) from None
