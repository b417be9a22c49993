"""The built book in a real browser without a network, page by page, at desktop and phone width.

Run by .ci/run after ``PROFILE=quick make book``; by hand: ``pytest -m book``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from browsers import AXE, FLAGS, HTML, chromium, served_book

pytestmark = pytest.mark.book

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}

FIRST_RESULT = {"desktop": 900, "phone": 2 * 844}
"""Where the first figure or table of a chapter begins at the latest: its first or second screen."""

SETTLE = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
FACTS = """() => {
    const all = (selector) => Array.from(document.querySelectorAll(selector));
    return {
        images: all("article img").map((image) => [image.src, image.alt.trim()]),
        broken: all("img").filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
        equations: all("article .math").length,
        rendered: all("article .math").filter((e) => e.querySelector("mjx-container")).length,
        bad_equations: all("mjx-merror").map((error) => error.textContent),
        stderr: all("article .output.stderr").map((output) => output.textContent),
        first: all("article :is(figure, .numbers, .rotate-explorer, .claim)")
            .map((e) => e.getBoundingClientRect().top + scrollY)[0] ?? null,
        code: all("article .cell_input").filter((e) => !e.closest("details")).length,
        folded: all("article details.chapter-code .cell_input").length,
        terms: all("a.term").filter((e) => !e.title).map((e) => e.textContent),
        cut: all("article pre").filter((e) => e.scrollWidth > e.clientWidth + 1)
            .map((e) => e.textContent.slice(0, 80)),
        width: [document.documentElement.scrollWidth, window.innerWidth],
    };
}"""

VIOLATIONS = """async () => {
    const found = (await axe.run()).violations;
    return found.map((v) => [v.id, v.nodes.length, v.nodes[0].target.join(" ")]);
}"""


@dataclass
class Visit:
    """What one page did and looked like on one screen."""

    page: str
    screen: str
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served_book() as url:
        yield url


@pytest.fixture(scope="module")
def visits(address: str, tmp_path_factory: pytest.TempPathFactory) -> list[Visit]:
    from playwright.sync_api import sync_playwright

    pages = sorted(
        path.relative_to(HTML).as_posix()
        for path in HTML.rglob("*.html")
        if "_static" not in path.parts and path.name != "index.html"  # only sends on to intro.html
    )
    assert "intro.html" in pages, "no book: run `make book` first"

    done = []
    with sync_playwright() as playwright:
        for screen, options in SCREENS.items():
            with playwright.chromium.launch_persistent_context(
                tmp_path_factory.mktemp(screen), executable_path=chromium(), args=FLAGS, **options
            ) as context:
                done += [visit(context, address, page, screen) for page in pages]
    return done


def visit(context: Any, address: str, page: str, screen: str) -> Visit:
    """Open one page, wait until it has settled, and note what happened."""
    it = Visit(page, screen)
    tab = context.new_page()
    tab.on("console", lambda m: it.errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: it.errors.append(str(error)))
    tab.on("request", lambda request: it.requested.append(request.url))
    tab.on("requestfailed", lambda request: it.failed.append(request.url))
    tab.on(
        "response",
        lambda response: it.failed.append(response.url) if response.status >= 400 else None,
    )
    tab.goto(address + page, wait_until="networkidle")
    tab.evaluate(SETTLE)
    it.facts = tab.evaluate(FACTS)
    if AXE.is_file():
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        it.facts["axe"] = tab.evaluate(VIOLATIONS)
    tab.close()
    return it


def found(visits: list[Visit], key: str) -> dict[str, list[Any]]:
    """Pages for which a list among the facts is not empty."""
    return {f"{v.page} ({v.screen})": v.facts[key] for v in visits if v.facts[key]}


def test_no_page_writes_an_error_to_the_console(visits: list[Visit]):
    assert {v.page: v.errors for v in visits if v.errors} == {}


def test_no_request_fails_and_none_leaves_the_book(visits: list[Visit], address: str):
    assert {v.page: v.failed for v in visits if v.failed} == {}
    for v in visits:
        assert [url for url in v.requested if not url.startswith((address, "data:", "blob:"))] == []


def test_every_image_loads_and_has_a_description(visits: list[Visit]):
    assert found(visits, "broken") == {}
    for v in visits:
        assert [source for source, alt in v.facts["images"] if not alt] == [], v.page


def test_every_equation_is_rendered(visits: list[Visit]):
    assert sum(v.facts["equations"] for v in visits) > 0
    assert found(visits, "bad_equations") == {}
    for v in visits:
        assert v.facts["rendered"] == v.facts["equations"], v.page


def test_no_page_is_wider_than_its_screen(visits: list[Visit]):
    for v in visits:
        content, screen = v.facts["width"]
        assert content <= screen, f"{v.page} on a {v.screen}"


def test_no_chapter_shows_a_warning(visits: list[Visit]):
    assert found(visits, "stderr") == {}


def test_a_chapter_shows_a_result_at_once(visits: list[Visit]):
    for v in visits:
        if v.page.startswith("executed/"):
            assert v.facts["first"] is not None, v.page
            assert v.facts["first"] <= FIRST_RESULT[v.screen], f"{v.page} on a {v.screen}"


def test_the_code_of_a_chapter_is_folded_at_its_end(visits: list[Visit]):
    for v in visits:
        if v.page.startswith("executed/"):
            assert v.facts["folded"] > 1, v.page
            assert v.facts["code"] <= 1, f"{v.page}: one readable call at most stands open"


def test_a_term_explains_itself(visits: list[Visit]):
    assert found(visits, "terms") == {}


def test_no_code_is_cut_off(visits: list[Visit]):
    assert found(visits, "cut") == {}


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: run `make js`")
def test_axe_finds_nothing(visits: list[Visit]):
    assert found(visits, "axe") == {}
