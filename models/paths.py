"""Paths as users write them: one that no system can look up is told in one line."""

from __future__ import annotations

from pathlib import Path

from models.errors import UserError


def user_path(text: str, named: str) -> Path:
    """The path that ``text`` names, its ``~`` written out; nothing needs to lie there.

    Parameters
    ----------
    named : what stands before the text where the user wrote it, ``MODEL=``; begins the message.

    Raises
    ------
    UserError : a home of nobody, a name that is too long, links in a circle, a folder that may not
        be looked into.
    """
    try:
        path = Path(text).expanduser()
        path.resolve().is_file()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise UserError(f"{named}{shown}: {reason}; name another path") from None
    return path
