"""Times to first token of a study's runs, which may come from other runs on a quiet machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.analysis.measures import Results, corrector, rate, selector

Key = tuple[str, float | None, str]
Times = Mapping[Key, float]


def key(result: dict[str, Any]) -> Key:
    """What a run's time depends on: method, rate and corrector, not what chunks stood behind."""
    return selector(result), rate(result), corrector(result)


def times_of(results: Results) -> Times:
    """TTFT with KVs in memory of each fused run, % of the full prefill's; oracles have none."""
    return {
        key(result): 100 / result["speedup"]["ready"]
        for result in results
        if result["config"]["context"] and result["speedup"]["ready"]
    }
