"""The report's page, read back without a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.stages.harness import Workplace


class Page(HTMLParser):
    """A page's table, its embedded JSON by id, its tags, and its visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.json: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.text = ""
        self._script: str | None = None
        self._cell: dict[str, str] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self._script = found.get("id") if found.get("type") == "application/json" else ""
        elif tag == "tr" and "data-run" in found:
            self.rows.append({"run": found["data-run"], "folder": found["data-folder"]})
        elif tag == "td" and "data-key" in found:
            self._cell = {"value": found["data-value"] or "", "text": ""}
            self.rows[-1][str(found["data-key"])] = self._cell

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._script = None
        elif tag == "td":
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.json[self._script] = json.loads(data)
        elif self._script is None:
            self.text += data
            if self._cell is not None:
                self._cell["text"] += data


def page_of(workplace: Workplace) -> Page:
    return Page(workplace.root / "outputs" / "report" / "index.html")


def results(page: Page) -> dict[str, dict[str, Any]]:
    """``result.json`` of every run that the page shows, by the page's name of it."""
    return {
        row["run"]: json.loads(Path(row["folder"], "result.json").read_bytes()) for row in page.rows
    }
