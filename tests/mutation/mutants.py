"""All mutants."""

from __future__ import annotations

from tests.mutation import (
    comparisons,
    engine_mutants,
    kv_mutants,
    pages,
    report,
    statistics,
    store_mutants,
    summaries,
)
from tests.mutation.mutant import Mutant

MUTANTS = [
    *statistics.MUTANTS,
    *comparisons.MUTANTS,
    *summaries.MUTANTS,
    *pages.MUTANTS,
    *report.MUTANTS,
    *(Mutant(*row) for row in engine_mutants.MUTANTS),
    *(Mutant(*row) for row in kv_mutants.MUTANTS),
    *(Mutant(*row) for row in store_mutants.MUTANTS),
]
