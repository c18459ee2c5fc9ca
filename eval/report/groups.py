"""Which runs stand side by side: those over the same items by the same engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from eval.report.figures import OWN
from stage.environment import MACHINE


class Grouped(NamedTuple):
    """Groups of comparable runs, and a line for each run that a later one replaces.

    Within a group the runs are sorted by their method and its options.
    """

    groups: list[list[dict[str, Any]]]
    replaced: list[str]


def grouped(results: Sequence[dict[str, Any]]) -> Grouped:
    """Runs by all that they must have in common to be compared.

    Parameters
    ----------
    results : as ``result.json`` holds them, the latest last.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    replaced = []
    for result in results:
        method = {key: result["config"][key] for key in ("method", "options")}
        group = groups.setdefault(json.dumps(common(result), sort_keys=True), {})
        if earlier := group.pop(name := json.dumps(method, sort_keys=True), None):
            why = "the method's source was another in a later run"
            if earlier["config"] == result["config"]:
                why = f"the same run lies in {result['folder']}"
            replaced.append(f"{earlier['folder']} is left out: {why}")
        group[name] = result
    return Grouped([[group[name] for name in sorted(group)] for group in groups.values()], replaced)


def common(result: dict[str, Any]) -> dict[str, Any]:
    """What the runs of a group have in common: all settings but the method's own, and a machine."""
    environment = result["environment"]
    settings = {key: value for key, value in result["config"].items() if key not in OWN}
    return {"config": settings, "machine": {key: environment.get(key) for key in MACHINE}}
