"""All mutants."""

from __future__ import annotations

from tests.mutation import comparisons, report, statistics, summaries

MUTANTS = [*statistics.MUTANTS, *comparisons.MUTANTS, *summaries.MUTANTS, *report.MUTANTS]
