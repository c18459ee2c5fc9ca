"""What a reader or a generator of rows is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.row import Row
from models.errors import UserError


@dataclass(frozen=True)
class Request:
    """Which rows are wanted, and how long a prompt they make.

    Attributes
    ----------
    measure : tokens of a row's whole prompt, chat frame and instruction included, uncut.
    room : tokens that a prompt may have beside its answer (``MAX_LENGTH``, or the model's reach).
    limit : the first so many rows, None for all.
    skip : so many rows are left out before those.
    longbench_dir, ruler_dir : folders that hold a benchmark's own files; None looks elsewhere.
    haystack : folder of text files for generated contexts; None takes the data pack's essays.
    sample : whether the built-in sample may stand in for a benchmark.
    lengths : prompt lengths in tokens for generated rows; empty chooses them from ``room``.
    depths : where needles go, in percent of the context; empty chooses a grid.
    seed : of generated rows.
    """

    measure: Callable[[Row], int]
    room: int
    limit: int | None = None
    skip: int = 0
    longbench_dir: str | None = None
    ruler_dir: str | None = None
    haystack: str | None = None
    sample: bool = True
    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"LIMIT={self.limit} asks for no rows; give 1 or more")
        if self.skip < 0:
            raise UserError(f"SKIP={self.skip} must be at least 0")

    @property
    def reach(self) -> int | None:
        """How many rows are read from the beginning; None for all."""
        return None if self.limit is None else self.skip + self.limit
