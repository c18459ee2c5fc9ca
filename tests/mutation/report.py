"""Mistakes in ``eval/report``: figures in another's place."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

MUTANTS: list[Mutant] = []
