"""The test's tables as one picture: distance from the full prefill against the rate.

Run it from the repository root: ``python -m eval.study.standings docs/method.md docs/primer.png``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from eval.study.claims import CONTROLS, OURS
from models.atomic import writing
from models.errors import UserError
from stage.options import exit_code

HEAD = "| method | behind | r | KL | 95% interval |"
DPI = 110
CONTROL, PUBLISHED, OWN = "0.55", "#0072B2", "black"
APART, GAP = 1.09, 0.012  # of labels: from each other, from their points


class Standing(NamedTuple):
    """A method at a rate: its mean KL and the ends of its 95% interval."""

    method: str
    rate: float
    kl: float
    low: float
    high: float


def read(text: str) -> dict[str, list[Standing]]:
    """The tables of a page by the words before them, which name a model.

    Raises
    ------
    UserError : there is no such table, none that is named, or a row of one that is none.
    """
    found: dict[str, list[Standing]] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith(HEAD):
            continue
        before = next((above for above in reversed(lines[:number]) if above.strip()), None)
        if before is None:
            raise UserError("no words before the page's first table name its model; add them")
        model = before.rpartition(". ")[2].rstrip(":")
        rows = found[model] = []
        for row in lines[number + 2 :]:
            if not row.startswith("|"):
                break
            method, _, *numbers = [cell.strip(" *") for cell in row.strip("|").split("|")]
            try:
                rate, kl, low, high = map(float, re.findall(r"\d*\.?\d+", " ".join(numbers[:3])))
            except ValueError:
                raise UserError(f"no row of a standing: {row}") from None
            rows.append(Standing(method, rate, kl, low, high))
        if not rows:
            raise UserError(f"the table of {model} has no rows")
    if not found:
        raise UserError(f"the page has no table that begins with {HEAD}")
    return found


def draw(models: Mapping[str, Sequence[Standing]], path: Path) -> None:
    """Write the picture (PNG): a panel a model, ours as a line through its rates.

    Rates run along a square-root axis, KL upwards on a logarithmic one. A dotted line goes on at
    the height of the nearest published method.
    """
    figure = Figure(figsize=(5.6 * len(models), 4.6), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (model, rows) in zip(
        figure.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True
    ):
        _panel(axes, rows)
        axes.set_title(model)
        axes.set_xlabel("share of document tokens recomputed, r")
    figure.axes[0].set_ylabel("distance from the full prefill: KL along the answer (nats)")
    figure.suptitle(f"Lower is better: {OURS} (black) and published methods (blue)", fontsize=12)
    with writing(path) as file:
        canvas.print_png(file)


def _panel(axes: Axes, rows: Sequence[Standing]) -> None:
    published = [row for row in rows if row.method not in (OURS, "full reuse", *CONTROLS)]
    ours = sorted((row for row in rows if row.method == OURS), key=lambda row: row.rate)
    colour = dict.fromkeys(published, PUBLISHED) | dict.fromkeys(ours, OWN)
    if published:
        best = min(published, key=lambda row: row.kl)
        axes.hlines(best.kl, 0, _x(best), ls=":", color=PUBLISHED, lw=1.2)
    axes.plot([_x(r) for r in ours], [r.kl for r in ours], color=OWN, lw=2.5, marker="*", ms=11)
    last: dict[float, float] = {}  # labels of near ones at a rate stand above each other
    for row in sorted(rows, key=lambda row: row.kl):
        ink = colour.get(row, CONTROL)
        axes.vlines(_x(row), row.low, row.high, color=ink, lw=1, alpha=0.5)
        if row.method == OURS:
            continue
        axes.plot(_x(row), row.kl, "o", color=ink, ms=5)
        height = last[row.rate] = max(row.kl, APART * last.get(row.rate, 0.0))
        axes.text(_x(row) + GAP, height, row.method, color=ink, va="center", fontsize=9)
    if ours:
        axes.text(_x(ours[-1]) + GAP, ours[-1].kl, OURS, va="center", weight="bold")
    axes.set_yscale("log")
    axes.set_xlim(-0.02, 0.52)
    ticks = sorted({row.rate for row in rows})
    axes.set_xticks([tick**0.5 for tick in ticks], [f"{tick:g}" for tick in ticks])
    low, high = min(r.low for r in rows), max(r.high for r in rows)
    heights = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low / 1.5 < tick < high * 1.5]
    axes.set_yticks(heights, [f"{height:g}" for height in heights])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)


def _x(row: Standing) -> float:
    return row.rate**0.5


def main(page: str, picture: str) -> None:
    """Read a page's tables and draw them."""
    try:
        text = Path(page).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{page} cannot be read: it is not UTF-8 text") from None
    draw(read(text), Path(picture))
    print(f"standings: {picture}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("give a page with tables and the picture's path: docs/method.md docs/primer.png")
    sys.exit(exit_code(lambda: main(*sys.argv[1:]), "standings"))
