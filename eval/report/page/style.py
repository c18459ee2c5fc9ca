"""How each method looks, the same in every chart: colour, dashes and marker tell it apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eval.analysis.measures import selector_of
from eval.report.curves import COLOURS

# The page's own colours for text, which are others in the dark.
INK, MUTED = "ink", "muted"
DASHES = ("solid", "dash", "dot")
SYMBOLS = (
    "circle", "square", "diamond", "triangle-down", "triangle-up", "pentagon", "hexagon",
    "cross", "triangle-left", "triangle-right",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """A colour (``#rrggbb``, ``ink`` or ``muted``), dashes and a marker, by Plotly's names."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"


FULL_PREFILL = Style(INK, "solid", "star")
RATELESS = {
    "no": FULL_PREFILL,
    "full": Style(INK, "dash", "square-open"),
    "cat": Style(INK, "dot", "diamond-open"),
}
# Dashes, where there are several controls, as one a codec.
CONTROLS = tuple(Style(MUTED, dash, "x") for dash in ("dot", "dash", "solid"))
# Yellow is too pale for a line on white; here it fills an area.
PARTS = {
    "load": "#999999",
    "decode_kv": "#D55E00",
    "transfer": "#56B4E9",
    "rotate": "#CC79A7",
    "select": "#E69F00",
    "recompute": "#0072B2",
    "correct": "#F0E442",
    "head": "#009E73",
}


def styles(methods: Iterable[tuple[str, bool]]) -> dict[str, Style]:
    """A style for each method.

    Parameters
    ----------
    methods : names with whether each is an oracle; the order decides the colours, repeats do not.
    """
    found: dict[str, Style] = {}
    plain = bounds = controls = 0
    for name, oracle in methods:
        if name in found:
            continue
        if name in RATELESS:
            found[name] = RATELESS[name]
        elif selector_of(name).partition(":")[0] == "random":
            found[name] = CONTROLS[controls % len(CONTROLS)]
            controls += 1
        elif oracle:
            found[name] = Style(INK, "dashdot", ("star-open", "cross-open")[bounds % 2])
            bounds += 1
        else:
            dash = DASHES[plain // len(COLOURS) % len(DASHES)]
            found[name] = Style(COLOURS[plain % len(COLOURS)], dash, SYMBOLS[plain % len(SYMBOLS)])
            plain += 1
    return found
