"""How far methods choose the same tokens: with each other, and with the oracles."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.analysis.measures import Results, at, method, rate, rates

LEGEND = (
    "overlap: of the document tokens that the column's method recomputes, the share that the row's "
    "does too, mean over\nitems. A random choice overlaps with any other by the rate."
)


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


def table(overlaps: Sequence[dict[str, Any]]) -> str:
    """All pairs at the middle rate, and every method with each oracle at all rates.

    Parameters
    ----------
    overlaps : what ``matrices`` returned. At rates 0 and 1 all choices are alike: left out.
    """
    inner = [found for found in overlaps if 0 < found["rate"] < 1 and len(found["methods"]) > 1]
    if not inner:
        return ""
    middle = inner[(len(inner) - 1) // 2]
    names = middle["methods"]
    cells = [[_percent(middle, name, reference) for reference in names] for name in names]
    blocks = [_grid(f"overlap % at {middle['rate']:g}", names, names, cells)]
    columns = [f"{found['rate']:g}" for found in inner]
    for oracle in dict.fromkeys(name for found in inner for name in found["oracles"]):
        others = [name for name in names if name != oracle]
        cells = [[_percent(found, name, oracle) for found in inner] for name in others]
        blocks.append(_grid(f"with {oracle}, at rate", others, columns, cells))
    return "\n\n".join([*blocks, LEGEND])


def _percent(found: dict[str, Any], name: str, reference: str) -> str:
    methods = found["methods"]
    if name not in methods or reference not in methods:
        return "-"
    mean = found["mean"][methods.index(name)][methods.index(reference)]
    return "-" if mean is None else f"{100 * mean:.0f}"


def _grid(
    title: str, names: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    first = max(map(len, [title, *names]))
    widths = [max(5, len(name)) for name in columns]
    return "\n".join(
        f"{name:<{first}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for name, row in zip([title, *names], [columns, *cells], strict=True)
    )
