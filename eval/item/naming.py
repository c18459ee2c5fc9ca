"""Whose trouble it is: the item and the method in front of what a refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data.inputs import Item
from models.decoding.answers import NoAnswer
from models.errors import UserError


def name_of(item: Item, method: str) -> str:
    """What messages about this item under this method begin with."""
    return f"item {item.id}, {method}"


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the item and the method in front of what a refusal says."""
    try:
        yield
    except NoAnswer:  # it says whose it is
        raise
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
