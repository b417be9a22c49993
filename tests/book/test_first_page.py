"""The turn on the built book's first page: it loops, it can be stopped, scrubbed and compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browsers import AXE, FLAGS, chromium, served_book

pytestmark = pytest.mark.book

SLIDER = ".turn input[type=range]"


@pytest.fixture(scope="module")
def open_page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with served_book() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)

        def opened(page: str = "intro", **options: Any) -> Any:
            tab = browser.new_page(**{"viewport": {"width": 390, "height": 900}, **options})
            tab.goto(f"{url}{page}.html")
            return tab

        yield opened
        browser.close()


def value(tab: Any) -> float:
    return float(tab.locator(SLIDER).input_value())


def test_it_turns_by_itself_and_stops_when_asked(open_page):
    tab = open_page()
    tab.locator(".turn").scroll_into_view_if_needed()
    tab.wait_for_function(f"document.querySelector('{SLIDER}').value > 20")
    tab.get_by_role("button", name="Pause").click()
    stopped = value(tab)
    tab.wait_for_timeout(300)
    assert value(tab) == stopped
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function(f"document.querySelector('{SLIDER}').value != {stopped}")


def test_nothing_moves_for_who_asked_for_less_motion(open_page):
    tab = open_page(reduced_motion="reduce")
    tab.locator(".turn").scroll_into_view_if_needed()
    assert tab.get_by_role("button", name="Play").is_visible()
    tab.wait_for_timeout(300)
    assert value(tab) == 100, "it shows where it ends"
    assert tab.locator(".turn-plot .token").count() > 0


def test_the_keyboard_scrubs_and_compares(open_page):
    tab = open_page(reduced_motion="reduce")
    tab.locator(SLIDER).focus()
    tab.keyboard.press("Home")
    assert tab.locator(".turn-cosine").inner_text().startswith("1.00")
    tab.keyboard.press("End")
    turned = tab.locator(".turn-kurtosis").inner_text()
    tab.locator(".turn input[type=checkbox]").focus()
    tab.keyboard.press("Space")
    assert "random vector" in tab.locator(".turn-told").inner_text()
    assert tab.locator(".turn-kurtosis").inner_text() != turned
    tab.keyboard.press("Space")
    tab.locator(".turn input[type=radio]").first.focus()
    told = tab.locator(".turn-told").inner_text()
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".turn-told").inner_text() != told


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_nothing(open_page, scheme, width):
    if not AXE.exists():
        pytest.skip("no axe-core: run `make js`")
    size = {"width": width, "height": 900}
    tab = open_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    report = tab.evaluate("axe.run('article')")
    assert [(v["id"], v["nodes"][0]["html"]) for v in report["violations"]] == []


def test_a_links_preview_has_a_picture_that_is_there(open_page):
    tab = open_page()
    source = tab.locator("meta[property='og:image']").get_attribute("content")
    if not source.startswith("http"):
        assert tab.request.get(f"{tab.url.rpartition('/')[0]}/{source}").ok
    assert tab.title().count("ROTATE, reproduced") == 1
