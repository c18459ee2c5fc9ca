"""The page written: one HTML file without the network, and PNG and CSV of each chart beside it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from tqdm import tqdm

from eval.report.page import overview
from eval.report.page.chart import Chart, plain
from eval.report.page.collect import Found, collect
from eval.report.page.content import SECTIONS, charts, content
from eval.report.page.texts import Texts
from eval.report.page.tokens import ITEMS, Explorer
from models.atomic import writing

TEMPLATES = Path(__file__).parent / "templates"
FOLDER, PAGE, FIGURES = "report", "index.html", "figures"
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def write(
    roots: Sequence[Path], target: Path, texts: Texts, pictures: bool = True
) -> tuple[Path | None, Found]:
    """Gather the runs below ``roots`` and write their page into the folder ``target``.

    Returns
    -------
    The page, or None where there is nothing to tell of; and what was found.
    """
    found = collect(roots)
    if not any((found.results, found.unfinished, found.damaged, found.failed)):
        return None, found
    page = content(found, Explorer(texts))
    names = _figures(list(charts(page)), target / FIGURES, pictures)
    with writing(target / PAGE) as file:
        file.write(html(page, [str(root) for root in roots], names).encode())
    return target / PAGE, found


def html(page: dict[str, Any], roots: Sequence[str], files: dict[str, str]) -> str:
    """The page as text.

    Parameters
    ----------
    page : what ``content.content`` returned. files : stems of the charts' files by their names.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    items = [
        {"id": f"item-{g}-{i}", "json": embedded(item)}
        for g, group in enumerate(page["groups"])
        for i, item in enumerate(group["explorer"]["items"])
    ]
    return environment.get_template("index.html").render(
        page=page,
        roots=roots,
        columns=overview.TABLE,
        filters=[(key, _values(page["runs"], key)) for key in ("model", "dataset", "method")],
        data=embedded(_data(page, files)),
        items=items,
        limit=ITEMS,
        style=_source("page.css"),
        scripts=[_source(name) for name in ("page.js", "charts.js", "tokens.js")],
        plotly=Markup(get_plotlyjs()),  # the library's own file, trusted as its code is
    )


def embedded(value: Any) -> Markup:
    """JSON that may stand in a ``<script>``: nothing in it can end the element or open a comment.

    NaN and infinities are refused.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], text))


def _data(page: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """What the page's script reads: charts and details; items are embedded one by one."""

    def drawn(chart: Chart) -> dict[str, Any]:
        return {**plain(chart), "file": files[chart.name]}

    groups = [
        {
            **{key: group[key] for key in ("title", "runs", "colours", "note", "heading")},
            **{name: [drawn(chart) for chart in group[name]] for name in SECTIONS},
            "items": [item["id"] for item in group["explorer"]["items"]],
            **{key: group["explorer"][key] for key in ("available", "missing")},
        }
        for group in page["groups"]
    ]
    details = {run["id"]: run["details"] for run in page["runs"]}
    return {
        "groups": groups,
        "suites": [drawn(chart) for chart in page["suites"]],
        "details": details,
    }


def _values(runs: Sequence[dict[str, Any]], key: str) -> list[str]:
    return sorted({run[key] for run in runs})


def _source(name: str) -> Markup:
    """A file of ours that is embedded as it stands."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _figures(drawn: Sequence[tuple[Chart, str]], folder: Path, pictures: bool) -> dict[str, str]:
    """Write CSV and PNG of each chart; files of charts that are no more are removed."""
    from eval.report.page import picture  # brings matplotlib in

    names: dict[str, str] = {}
    for chart, _ in drawn:
        stem = re.sub(r"[^A-Za-z0-9._=-]+", "-", chart.name)[:120]
        while stem in names.values():
            stem += "-"
        names[chart.name] = stem
    kept = set()
    for chart, subject in tqdm(drawn, "report", unit="figure", disable=None):
        stem = names[chart.name]
        text = io.StringIO()
        csv.writer(text).writerows(chart.rows())
        with writing(folder / f"{stem}.csv") as file:
            file.write(text.getvalue().encode())
        kept.add(f"{stem}.csv")
        if pictures:
            picture.draw(chart, subject, folder / f"{stem}.png")
            kept.add(f"{stem}.png")
    for path in [*folder.glob("*.csv"), *folder.glob("*.png")]:
        if path.name not in kept:
            path.unlink()
    return names
