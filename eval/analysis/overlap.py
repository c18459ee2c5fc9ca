"""How far methods choose the same tokens: with each other, and with the oracles."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from eval.analysis.measures import Results, at, codec, method, rate, rates, selector


def decode(selected: str, documents: int) -> np.ndarray:
    """Recomputed document positions as bool ``[documents]``, in document order.

    Parameters
    ----------
    selected : base64 of ``numpy.packbits(mask, bitorder="little")``.

    Raises
    ------
    ValueError : not as many bytes as ``documents`` bits need.
    """
    packed = np.frombuffer(base64.b64decode(selected), dtype=np.uint8)
    if len(packed) != -(-documents // 8):
        raise ValueError(f"{len(packed)} bytes do not hold {documents} positions")
    return np.unpackbits(packed, count=documents, bitorder="little").astype(bool)


def share(chosen: np.ndarray, reference: np.ndarray) -> float | None:
    """|chosen ∩ reference| / |reference|; None where the reference is empty."""
    size = int(reference.sum())
    return int((chosen & reference).sum()) / size if size else None


def matrix(results: Results, wanted: float) -> dict[str, Any]:
    """Mean overlap of every pair of runs at one rate.

    Returns
    -------
    dict with ``rate``, ``methods``, ``oracles`` (those methods that are), and ``mean`` and
    ``items``, ``[method][reference]``: the mean of ``share`` over the items whose reference is not
    empty (None if there are none), and how many these are.
    """
    runs = [
        result
        for result in at(results, wanted)
        if rate(result) is not None
        and all(item.get("selected") is not None for item in result["items"])
    ]
    # A corrector changes no choice: of a selector's runs over the same KVs one is enough.
    chosen_by = [(selector(run), run["config"].get("context"), codec(run)) for run in runs]
    runs = [run for i, run in enumerate(runs) if chosen_by[i] not in chosen_by[:i]]
    masks = [
        [decode(item["selected"], item["documents"]) for item in result["items"]] for result in runs
    ]
    shares = [
        [
            [s for a, b in zip(chosen, reference, strict=True) if (s := share(a, b)) is not None]
            for reference in masks
        ]
        for chosen in masks
    ]
    return {
        "rate": wanted,
        "methods": [method(result) for result in runs],
        "oracles": [method(result) for result in runs if result["oracle"]],
        "mean": [[float(np.mean(s)) if s else None for s in row] for row in shares],
        "items": [[len(s) for s in row] for row in shares],
    }


def matrices(results: Results) -> list[dict[str, Any]]:
    """``matrix`` at every rate, rising."""
    return [matrix(results, wanted) for wanted in rates(results)]
