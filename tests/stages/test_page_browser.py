"""The report's page in headless Chromium: no errors, and sorting, filtering and items work."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.conftest import HOSTILE
from tests.stages.harness import Workplace

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make browser")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make browser")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, reported: Workplace) -> Iterator:
    """Opens the page; at the end nothing may have gone wrong, and nothing been asked for."""
    path = reported.root / "outputs" / "report" / "index.html"
    troubles: list[str] = []
    pages = []

    def open_page(width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda line: troubles.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda one: (
                troubles.append(one.url)
                if one.url != path.as_uri() and not one.url.startswith(("data:", "blob:"))
                else None
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("#side-by-side:not([hidden])", state="attached")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == []


def column(page, key: str) -> list[str]:
    """The figures of the shown rows."""
    cells = page.locator(f"#runs tr:not([hidden]) > td[data-key={key}]")
    return cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_fits_and_every_chart_is_drawn(opened, tmp_path: Path, width, scheme):
    page = opened(width, scheme)
    sweep = page.locator("#group option", has_text="sweep").get_attribute("value")
    page.select_option("#group", sweep)
    for section in ("pareto", "anatomy", "tokens", "versus", "layers"):
        page.locator(f"#{section} h3").scroll_into_view_if_needed()
        drawn = "table" if section == "versus" else ".answers" if section == "tokens" else "svg"
        page.wait_for_selector(f"#{section} {drawn}", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "kvfuse report"
    assert page.locator("img").count() == 0
    shot = tmp_path / f"{width}-{scheme}.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 10_000


def test_sorting(opened):
    page = opened()
    for key, title in (("kl_mean", "KL answer"), ("speedup_ready", "speed-up")):
        before = column(page, key)
        button = page.get_by_role("button", name=title, exact=True)
        for direction in ("descending", "ascending"):
            button.press("Enter")
            known = [float(value) for value in column(page, key) if value]
            assert known == sorted(known, reverse=direction == "descending")
            assert button.locator("..").get_attribute("aria-sort") == direction
            assert column(page, key)[len(known) :] == [""] * before.count("")  # none stands last
        assert sorted(column(page, key)) == sorted(before)


def test_filtering(opened):
    page = opened()
    everything = len(column(page, "method"))
    page.locator("[data-filter=method]").select_option("random")
    assert set(column(page, "method")) == {"random"}
    assert page.locator("#count").inner_text() == f"3 of {everything} runs"
    page.locator("[data-filter=method]").select_option("")
    assert len(column(page, "method")) == everything


def test_a_row_opens_its_configuration_by_the_keyboard(opened):
    page = opened()
    button = page.locator("#runs .open").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    text = page.locator("#runs tr.more").inner_text()
    assert all(word in text for word in ("Configuration", "method", "Environment", "torch", "Gate"))
    page.keyboard.press("Enter")
    assert page.locator("#runs tr.more").count() == 0


def test_an_item_opens_and_two_methods_differ(opened):
    page = opened()
    evaluation = page.locator("#group option:not(:text('sweep'))").get_attribute("value")
    page.select_option("#group", evaluation)
    page.get_by_role("button", name="next").click()
    assert page.locator("#item option:checked").inner_text() == "row-1"
    assert HOSTILE in page.locator("#item-shown .question").inner_text()
    panes = page.locator(".pane")
    assert panes.count() == 2
    chosen = [
        pane.locator(".t.on").evaluate_all("all => all.map((token) => token.dataset.at)")
        for pane in panes.all()
    ]
    assert chosen[0]
    assert chosen[1]
    assert chosen[0] != chosen[1]
    page.get_by_label("random 0.3").check()
    assert panes.count() == 3
    panes.first.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#tip").inner_text().splitlines()
    assert re.fullmatch(r"token \d+(, recomputed)?", tip[0])
    assert tip[1].startswith("surprisal ")
    answers = page.locator(".answers tbody tr")
    assert answers.count() == 6
    assert answers.first.inner_text().startswith("full prefill")
